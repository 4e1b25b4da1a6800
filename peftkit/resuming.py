"""What a run does before it trains so that it can go on later, and what it finds of itself when it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.checkpoint.folders import Checkpoints
from peftkit.checkpoint.identity import FILE, identify, identity_hash, require_same_run, write_identity
from peftkit.checkpoint.room import checkpoint_size, require_room
from peftkit.config import RunConfig
from peftkit.errors import CheckpointError
from peftkit.memory.retries import Retries
from peftkit.rundir import RunFolder
from peftkit.stopping import Stop
from peftkit.train.saving import Saving
from peftkit.ui import UI

if TYPE_CHECKING:
    from peft import PeftModel

    from peftkit.data.prepare import Prepared
    from peftkit.stages import FoundModel


@dataclass(frozen=True)
class Begun:
    """A run that is ready to train.

    Attributes:
        identity: What decides it, as `identify` returns it.
        saving: Saves it.
        start: The checkpoint to go on from; None starts at the beginning.
    """

    identity: Mapping[str, Any]
    saving: Saving
    start: Path | None


def begin(
    folder: RunFolder,
    config: RunConfig,
    base: FoundModel,
    data: Prepared,
    model: PeftModel,
    ui: UI,
    stop: Stop,
    retries: Retries,
    *,
    resumed: bool,
) -> Begun:
    """Write down which run this is, or see that it is the one that began here; find the checkpoint to go on from.

    Raises:
        CheckpointError: The run is not the one that began here, or its checkpoints are damaged or gone.
        ModelError: The base weights are not on this machine as .safetensors files.
        OutputError: The disk has no room for the checkpoints.
    """
    identity = identify(config, base, data)
    checkpoints = Checkpoints(folder.checkpoints, config.train.save_total_limit)
    began = resumed and (folder.metrics.exists() or any(folder.checkpoints.glob("checkpoint-*")))
    if began or (resumed and (folder.checkpoints / FILE).exists()):
        for difference in require_same_run(folder.checkpoints, identity):
            ui.warn(difference)
    else:
        write_identity(folder.checkpoints, identity)
    start = checkpoints.open(ui.warn) if resumed else None
    if began and start is None:
        raise CheckpointError(
            f"'{folder.path}' has no checkpoint that is whole, so the run cannot go on; nothing was deleted; put one "
            "back, or start a new run with another --out"
        )
    require_room(folder.path, checkpoint_size(model, config.train), config.train.save_total_limit)
    saving = Saving(
        checkpoints,
        config.train,
        stop=stop,
        warn=ui.warn,
        identity=identity_hash(identity),
        out_of_memory=retries.not_saved,
    )
    return Begun(identity, saving, start)
