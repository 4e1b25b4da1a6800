"""`summary.json`: what a run reached, what it took, and what made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peftkit import machine
from peftkit.config import RunConfig


@dataclass(frozen=True)
class RunTime:
    """When a run started, and how long it took.

    Attributes:
        started: When this start of it began.
        stages: Seconds of each stage.
        earlier_seconds: Seconds of training that earlier starts of the same run took.
        went_on: `{"went_on_after_step": step}` for a run that was resumed, else empty.
    """

    started: datetime
    stages: Mapping[str, float]
    earlier_seconds: float
    went_on: Mapping[str, int | None]


def make_summary(
    config: RunConfig,
    recipe: str,
    adapter: Path,
    time: RunTime,
    *,
    held: str,
    compared: Mapping[str, Any],
    trained: Mapping[str, Any],
    parameters: tuple[int, int],
    converted: Mapping[str, float] | None,
    forecast: Mapping[str, Any] | None,
    memory_retries: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the content of `summary.json` for a run that ends now.

    Args:
        config: The run's configuration, with what was found in its data.
        recipe: Name of its recipe.
        adapter: Folder of its adapter, whose files are written.
        time: When it started, and how long its stages took.
        held: How the base weights were held.
        compared: What base and adapter reached on the held-out rows.
        trained: What the training said of itself.
        parameters: How many are trained, and how many there are in all.
        converted: Rank and error of the LoRA that the adapter was turned into, if it was.
        forecast: What was forecast at the start beside what was measured, if anything was.
        memory_retries: What was done when memory ran out.
    """
    cuda = machine.peak_cuda()
    finished = datetime.now(UTC)
    return {
        "schema": 1,
        "recipe": recipe,
        "preset": config.preset,
        "model": config.model.path,
        "quantization": held,
        "seed": config.train.seed,
        "started": time.started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
        **time.went_on,
        **compared,
        "time": {
            "total": round((finished - time.started).total_seconds() + time.earlier_seconds, 3),
            "stages": dict(time.stages),
        },
        "memory": {
            "peak_rss": machine.peak_resident(),
            "peak_cuda_allocated": cuda[0] if cuda else None,
            "peak_cuda_reserved": cuda[1] if cuda else None,
        },
        "forecast": None if forecast is None else dict(forecast),
        "memory_retries": list(memory_retries),
        "tokens_per_second": trained["tokens_per_second"],
        "tokens": {"train": trained["tokens"], "trained": trained["trained_tokens"]},
        "train": {name: trained[name] for name in ("steps", "epochs", "final_loss", "seconds", "saving_seconds")},
        "adapter": {
            "method": config.adapter.method,
            "r": config.adapter.r,
            "trainable_parameters": parameters[0],
            "total_parameters": parameters[1],
            "bytes": sum(file.stat().st_size for file in adapter.glob("adapter_*")),
            **({"converted": dict(converted)} if converted else {}),
        },
        "versions": machine.versions(),
        "machine": machine.describe(),
    }
