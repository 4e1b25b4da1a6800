"""How long a traced step takes on a card: each operation as long as its arithmetic or its memory traffic needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from peftkit.plan.cards import Card
from peftkit.plan.parts import EVALUATION
from peftkit.plan.work import Work


@dataclass(frozen=True)
class Shares:
    """What of a card's rates real kernels reach.

    Attributes:
        arithmetic: Of the rate of dense products.
        traffic: Of the rate of its memory.
        launch: Seconds that the processor needs to start one operation.
    """

    arithmetic: float
    traffic: float
    launch: float


GPU_SHARES = {
    "low": Shares(0.85, 0.90, 5e-6),
    "middle": Shares(0.70, 0.78, 9e-6),
    "high": Shares(0.50, 0.60, 15e-6),
}
"""The middle is what published runs reach: 56 to 76% of the card's rate, recomputation counted (torchtune's QLoRA of 8B
on an RTX 4090 and of 3B on an A100, LLaMA-Factory's of 7B on an A100)."""

CPU_SHARES = {"low": Shares(1.0, 1.0, 4e-6), "middle": Shares(0.8, 0.7, 8e-6), "high": Shares(0.5, 0.4, 15e-6)}
"""Of rates that were measured here, by one large product and one large copy."""


@dataclass(frozen=True)
class Range:
    """Seconds: likely, and between what limits."""

    low: float
    middle: float
    high: float

    def times(self, factor: float) -> Range:
        """Return it so many times over."""
        return Range(self.low * factor, self.middle * factor, self.high * factor)


def step_time(work: Work, card: Card, itemsize: int, passes: int, asked: int) -> Range:
    """Return the seconds of an optimizer step.

    Args:
        work: What a traced step computes.
        card: Where.
        itemsize: Bytes of the numbers that matrices are multiplied in.
        passes: Forward passes that were traced.
        asked: Forward passes of an optimizer step.
    """
    rare = [name for name in work.of if name == "optimizer"]
    often = [name for name in work.of if name not in rare and not name.startswith(EVALUATION)]
    shares = GPU_SHARES if card.kind == "cuda" else CPU_SHARES
    found = {
        name: _seconds(work, often, card, itemsize, share) * asked / passes
        + _seconds(work, rare, card, itemsize, share)
        for name, share in shares.items()
    }
    return Range(**found)


def judging_time(work: Work, card: Card, itemsize: int, written: int) -> Range:
    """Return the seconds that judging one batch of held-out rows takes, writing so many tokens."""
    shares = GPU_SHARES if card.kind == "cuda" else CPU_SHARES
    reading = [name for name in work.of if name == EVALUATION]
    writing = [name for name in work.of if name.startswith(f"{EVALUATION},")]
    return Range(
        **{
            name: _seconds(work, reading, card, itemsize, share)
            + written * _seconds(work, writing, card, itemsize, share)
            for name, share in shares.items()
        }
    )


def _seconds(work: Work, phases: Iterable[str], card: Card, itemsize: int, shares: Shares) -> float:
    """Add up operations; the card waits for the processor where this is the slower one."""
    rate, traffic = card.flops(itemsize) * shares.arithmetic, card.bandwidth * shares.traffic
    costs = [item for phase in phases for item in work.of.get(phase, {}).items()]
    busy = sum(times * max(flops / rate, size / traffic) for (flops, size), times in costs)
    launches = shares.launch * sum(times for _, times in costs)
    return max(busy, launches) if card.kind == "cuda" else busy + launches
