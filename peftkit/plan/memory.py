"""What a traced run takes: memory of the card by component, main memory, and disk."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from peftkit.config import RunConfig
from peftkit.plan.allocator import reserved_bytes
from peftkit.plan.cards import GIB, MIB, Card
from peftkit.plan.ledger import Trace
from peftkit.plan.parts import BACKWARD, EVALUATION, FORWARD, HEAD
from peftkit.plan.step import Traced

HOST_LIBRARIES = 2 * GIB
"""Main memory of a process that has torch with CUDA, transformers and their kernels loaded (1.5 to 2.5 GiB by release)."""

_FRAGMENTS = 1.02  # of a processor's heap, over the live bytes
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
        reserved: What the allocator takes for all of it, with its rounding and what it holds in pieces.
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
        return self.reserved + self.context


def memory_of(traced: Traced, config: RunConfig, card: Card) -> Memory:
    """Return what a traced run takes on a card."""
    trace = traced.trace
    phase, top = trace.top(*(name for name in trace.tops if not name.startswith(EVALUATION)))
    judged = [one.bytes for name, one in trace.tops.items() if name.startswith(EVALUATION)]
    workspace = card.workspace if card.kind == "cuda" else 0
    components = components_at_peak(trace, phase, top.at)
    components["loss head" if phase.startswith(HEAD) else "transient"] += top.bytes - sum(components.values())
    components["cuBLAS workspace"] = workspace
    held = reserved_bytes(trace) if card.kind == "cuda" else round(trace.peak * _FRAGMENTS)
    adapter = 4 * traced.trainable
    download = 2 * traced.frozen
    total = held + workspace
    return Memory(
        components={name: size for name, size in components.items() if size > 0},
        training=top.bytes + workspace,
        evaluation=max(judged) + workspace if judged else 0,
        phase=phase,
        operation=top.operation,
        place=top.place,
        reserved=total,
        context=card.context,
        host=total + card.context if card.kind == "cpu" else HOST_LIBRARIES,
        disk={
            "download": download,
            "checkpoints": adapter * config.train.save_total_limit,
            "adapter": adapter,
            "reports": _FILE_SYSTEM,
            "merged model": download,
        },
    )


def components_at_peak(trace: Trace, phase: str, at: int) -> dict[str, int]:
    """Return bytes by component when an operation had run.

    What the forward pass made and what is still there when the backward pass begins is saved for it; what else
    operations made is transient, or the loss head's where that made it.
    """
    backwards = next((start for start, name in trace.marks if name.startswith(BACKWARD) and start > at), None)
    found: dict[str, int] = defaultdict(int)
    for one in trace.alive(at):
        if one.kind:
            found[_named(one.kind)] += one.size
        elif one.phase.startswith(HEAD):
            found["loss head"] += one.size
        elif one.phase == FORWARD and (phase != FORWARD or _outlives(one.died, backwards)):
            found["saved activations"] += one.size
        else:
            found["transient"] += one.size
    return found


def _outlives(died: int | None, start: int | None) -> bool:
    return died is None or (start is not None and died > start)


def _named(kind: str) -> str:
    dtype = kind.removeprefix("base ")
    if dtype == kind:
        return "adapter" if kind == "adapter" else kind
    held = {"uint8": "4-bit", "int8": "8-bit", "scales": "scales of quantized"}.get(dtype, dtype)
    return f"base weights, {held}" if dtype != "scales" else "base weights, scales"


def as_json(memory: Memory) -> dict[str, Any]:
    """Return it as plain values, sizes in bytes."""
    return {
        "total": memory.total,
        "allocated": memory.allocated,
        "reserved": memory.reserved,
        "context": memory.context,
        "training": memory.training,
        "evaluation": memory.evaluation,
        "components": memory.components,
        "peak": {"phase": memory.phase, "operation": memory.operation, "place": memory.place},
        "host": memory.host,
        "disk": memory.disk,
    }
