"""Which run a checkpoint belongs to: its model, tokenizer, data and settings, and what of them may change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit import machine
from peftkit.config import RunConfig
from peftkit.errors import CheckpointError
from peftkit.resolve import flat_values
from peftkit.rundir import write_json

if TYPE_CHECKING:
    from peftkit.data.examples import Example
    from peftkit.data.prepare import Prepared
    from peftkit.stages import FoundModel

FILE = "run.json"
CHANGEABLE = (
    "train.worst_batch_first",
    "train.logging_steps",
    "train.save_steps",
    "train.save_minutes",
    "train.save_total_limit",
    "train.on_nan",
    "train.max_nan_steps",
    "evaluate.",
    "adapter.save_as_lora",
)
"""Keys that may change when a run goes on; all others decide what is trained."""
_BY_CONTENT = ("model.path", "model.revision", "data.path", "data.test_path")
"""Keys that name a place; what is found there is compared in their stead."""


def identify(config: RunConfig, base: FoundModel, data: Prepared) -> dict[str, Any]:
    """Return what decides a run: every key, and a hash of the base weights, the tokenizer, and the encoded rows.

    Raises:
        ModelError: The base weights are not on this machine as .safetensors files.
    """
    from peftkit.model.fingerprint import fingerprint, text_hash, tokenizer_hash

    settings = {key: value for key, value in flat_values(config).items() if key not in _BY_CONTENT}
    return {
        "settings": {key: value for key, value in settings.items() if not key.startswith(CHANGEABLE)},
        "base weights": fingerprint(base.source),
        "tokenizer": tokenizer_hash(base.encoder.tokenizer),
        "chat template": text_hash(base.encoder.template),
        "training rows": _rows_hash(data.train),
        "held-out rows": _rows_hash(data.test),
    }


def identity_hash(identity: Mapping[str, Any]) -> str:
    """Return the sha256 of an identity; held-out rows are judged and decide nothing that is trained."""
    said = {name: value for name, value in identity.items() if name != "held-out rows"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def write_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Write down which run the checkpoints of a folder belong to, and what it is trained with."""
    folder.mkdir(exist_ok=True)
    write_json(folder / FILE, {"identity": identity, "surroundings": _surroundings()})


def require_same_run(folder: Path, identity: Mapping[str, Any]) -> list[str]:
    """Refuse to go on with anything but the run that the checkpoints belong to.

    Returns:
        What is different around it and may change the last bits of what is computed, as sentences.

    Raises:
        CheckpointError: A setting, the base model, the tokenizer or the rows are not those of the run.
    """
    try:
        written = json.loads((folder / FILE).read_bytes())
        was, around = written["identity"], written["surroundings"]
        settings = was["settings"]
    except FileNotFoundError as error:
        raise CheckpointError(f"'{folder}' lacks {FILE}, which says whose checkpoints these are") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"'{folder / FILE}' is damaged, and says whose checkpoints these are: {error}") from error
    now = identity["settings"]
    changed = [
        f"{key}: {settings.get(key)} -> {now.get(key)}"
        for key in sorted({**settings, **now})
        if settings.get(key) != now.get(key)
    ]
    changed += [
        f"{name} are not the same" if name.endswith("s") else f"the {name} is not the same"
        for name in was
        if name != "settings" and was[name] != identity.get(name) and name != "held-out rows"
    ]
    if changed:
        raise CheckpointError(
            f"'{folder.parent}' can only go on as it began; different now: {'; '.join(changed)}; put it back, or start "
            "a new run with another --out"
        )
    return [
        f"the run began with {name} {before} and goes on with {_surroundings().get(name)}; the last bits of what is "
        "computed may differ"
        for name, before in around.items()
        if before != _surroundings().get(name)
    ]


def _surroundings() -> dict[str, Any]:
    """What no setting names, and sums of floating-point numbers may depend on."""
    import torch

    described = machine.describe()
    return {**machine.versions(), "threads": torch.get_num_threads(), "cpu": described["cpu"], "gpu": described["gpu"]}


def _rows_hash(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for one in examples:
        said = (one.prompt_ids, one.completion_ids, one.trained and list(one.trained), one.target, one.weight)
        digest.update(json.dumps(said).encode() + b"\n")
    return digest.hexdigest()
