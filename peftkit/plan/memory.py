"""What a traced run takes: memory of the card by component, main memory, and disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from peftkit.checkpoint.room import checkpoints_size
from peftkit.config import RunConfig
from peftkit.plan.allocator import Taken
from peftkit.plan.cards import GIB, MIB, Card
from peftkit.plan.outline import Outline

HOST_LIBRARIES = 2 * GIB
"""Main memory of a process that has torch with CUDA and transformers loaded (1.5 to 2.5 GiB by release)."""

_FRAGMENTS = 0.25
"""What a process on a processor takes over the live bytes that come and go in a step, as a share of these; probably
what its heap leaves in pieces. Fitted to five runs of the embedded models: 0.14 to 0.34 in these, far more in one of
large batches whose layers are recomputed."""

_FILE_SYSTEM = 50 * MIB  # predictions, report and logs of a run


@dataclass(frozen=True)
class Memory:
    """Bytes of a run.

    Attributes:
        components: What is alive at the peak of training, by component; they add up to `training`.
        training: The most alive at once in a training step.
        evaluation: The most alive at once while held-out rows are judged; 0 where none are.
        phase: Where training has its peak: in which pass.
        operation: The operation at which it has it.
        place: The layer in which that ran; empty outside of layers.
        for_training: What torch must have of the card for training, with its rounding and what is left in pieces.
        for_evaluation: The same for judging.
        reserved: What torch takes, if there is as much.
        context: What CUDA, or the libraries of a run on a processor, take beside that.
        host: Main memory that the run takes.
        disk: Disk by what is kept: download, checkpoints, adapter, and a merged model.
    """

    components: dict[str, int]
    training: int
    evaluation: int
    phase: str
    operation: str
    place: str
    for_training: int
    for_evaluation: int
    reserved: int
    context: int
    host: int
    disk: dict[str, int]

    @property
    def allocated(self) -> int:
        """The most alive at once in all of the run."""
        return max(self.training, self.evaluation)

    @property
    def total(self) -> int:
        """What the card, or main memory where there is none, must have."""
        return max(self.for_training, self.for_evaluation) + self.context


def memory_of(outline: Outline, config: RunConfig, card: Card) -> Memory:
    """Return what a run takes on a card."""
    training, judging = outline.top(evaluation=False), outline.top(evaluation=True)
    assert training is not None
    phase, top = training
    judged = judging[1].bytes if judging else 0
    workspace = card.workspace
    taken = outline.taken if card.kind == "cuda" else _heap(outline.components[phase], judged)
    adapter, download = 4 * outline.trainable, 2 * outline.frozen
    memory = Memory(
        components=_sorted({**outline.components[phase], "cuBLAS workspace": workspace}),
        training=top.bytes + workspace,
        evaluation=judged + workspace if judged else 0,
        phase=phase,
        operation=top.operation,
        place=top.place,
        for_training=taken.training + workspace,
        for_evaluation=taken.evaluation + workspace if judged else 0,
        reserved=taken.reserved + workspace,
        context=card.context,
        host=HOST_LIBRARIES + outline.moved,
        disk={
            "download": download,
            "checkpoints": checkpoints_size(outline.trainable, config.train),
            "adapter": adapter,
            "reports": _FILE_SYSTEM,
            "merged model": download,
        },
    )
    return memory if card.kind == "cuda" else replace(memory, host=memory.total)


def _heap(training: Mapping[str, int], judged: int) -> Taken:
    """Return what a processor's heap takes: live bytes, and some that are left in pieces."""
    live = sum(training.values())
    passing = sum(training.get(name, 0) for name in ("saved activations", "loss head", "transient"))
    pieces = round(passing * _FRAGMENTS)
    return Taken(live + pieces, judged + pieces if judged else 0, max(live, judged) + pieces)


def _sorted(components: Mapping[str, int]) -> dict[str, int]:
    """Return components in the order of a training step, without empty ones."""
    order = [name for name in components if name.startswith("base weights")]
    order += ["buffers", "adapter", "optimizer", "gradients", "saved activations", "loss head", "transient"]
    order += [name for name in components if name not in order]
    return {name: components[name] for name in order if components.get(name, 0) > 0}


def as_json(memory: Memory) -> dict[str, Any]:
    """Return it as plain values, sizes in bytes."""
    return {
        "total": memory.total,
        "allocated": memory.allocated,
        "for_training": memory.for_training,
        "for_evaluation": memory.for_evaluation,
        "reserved": memory.reserved,
        "context": memory.context,
        "training": memory.training,
        "evaluation": memory.evaluation,
        "components": memory.components,
        "peak": {"phase": memory.phase, "operation": memory.operation, "place": memory.place},
        "host": memory.host,
        "disk": memory.disk,
    }
