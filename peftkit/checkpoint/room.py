"""How much room a run's checkpoints need on the disk, before anything is trained for them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.config import TrainConfig
from peftkit.errors import OutputError
from peftkit.train.optimizers import find_optimizer, state_bytes
from peftkit.ui import size

if TYPE_CHECKING:
    from peft import PeftModel

_REST = 1 << 16  # bytes of random states, settings and headers
_SPARE = 1 << 24  # bytes for the report and what else a run writes beside its adapter
_SMALL = 4096  # values below which optimizers of 8 bits hold a tensor's state in 32


def checkpoints_size(trained: int, train: TrainConfig) -> int:
    """Return about how many bytes the checkpoints that are kept, and one more, come to, by the trained parameters."""
    one = _REST + trained * (4 + 4 + state_bytes(train.optim))
    return round(one * (train.save_total_limit + 1))


def checkpoint_size(model: PeftModel, train: TrainConfig) -> int:
    """Return how many bytes a checkpoint will have: the adapter as it is used, as it is trained, and the optimizer."""
    optimizer = find_optimizer(train.optim)
    state = state_bytes(train.optim)
    small = 4 * state if optimizer and "8bit" in optimizer.transformers else state
    total = float(_REST)
    for name, value in model.named_parameters():
        if value.requires_grad or "lora_" in name:  # some optimizers leave a part of an adapter as it is
            values = value.numel()
            kept = (small if values < _SMALL else state) if value.requires_grad else 0
            total += values * (4 + 4 + kept)
    return round(total)


def require_room(folder: Path, one: int, keep: int) -> None:
    """Refuse to start what the disk has no room for: the checkpoints that are kept, one more, and the adapter.

    Args:
        folder: Of the run; what its checkpoints take already counts as free.
        one: Bytes of a checkpoint.
        keep: How many are kept.

    Raises:
        OutputError: There is less free.
    """
    held = sum(file.stat().st_size for file in (folder / "checkpoints").rglob("*") if file.is_file())
    needed = one * (max(2, keep) + 1) + one // 2 + _SPARE - held
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"'{folder}' needs {size(needed)} for {max(2, keep) + 1} checkpoints of {size(one)} and the adapter, and "
            f"the disk has {size(free)} free; make room, or give another place with --out"
        )
