"""What to change: each change traced anew, with the memory and time that it gains or loses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from peftkit.config import RunConfig
from peftkit.errors import PeftkitError
from peftkit.plan.cards import Card
from peftkit.plan.changes import Change, Values, changed, faster, smaller
from peftkit.plan.forecast import Forecast, Subject, read, trace
from peftkit.plan.forks import in_forks
from peftkit.plan.workload import Workload

MOST = 5
"""Pieces of advice that are given."""

_WORTH = 0.03  # of the time or the card's memory: what gains less is not said


@dataclass(frozen=True)
class Advice:
    """One piece of advice, or several changes that are needed together.

    Attributes:
        values: New values by key.
        words: The same as words of a command line.
        why: What it does.
        total: Bytes of the card that the run then takes.
        seconds: Seconds of an optimizer step then.
        memory_gained: Bytes that this saves; below zero where it takes more.
        time_gained: Share of a step's time that this saves; below zero where it takes longer.
        fits: Whether it then fits.
    """

    values: Values
    words: str
    why: str
    total: int
    seconds: float
    memory_gained: int
    time_gained: float
    fits: bool

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "set": dict(self.values),
            "why": self.why,
            "memory": self.total,
            "memory_gained": self.memory_gained,
            "time_gained": round(self.time_gained, 4),
            "seconds_per_step": float(f"{self.seconds:.4g}"),
            "fits": self.fits,
        }


class Adviser:
    """Tries changes of a run on one card.

    Args:
        subject: The run.
        now: Its forecast.
        forks: Whether changes are tried in forks of this process; one that trains is not to be forked.
    """

    def __init__(self, subject: Subject, now: Forecast, *, forks: bool = False) -> None:
        self.subject, self.now, self.forks = subject, now, forks
        self.card: Card = now.card

    def advise(self) -> list[Advice]:
        """Return advice, the best first."""
        if self.now.fits and not self.now.tight:
            found = [one for one in self._tried(faster(self.subject)) if one.fits and one.time_gained > _WORTH]
            return sorted(found, key=lambda one: -one.time_gained)[:MOST]
        least = _WORTH * self.card.memory
        found = [one for one in self._tried(smaller(self.subject)) if one.memory_gained > least or one.fits]
        fitting = sorted((one for one in found if one.fits), key=lambda one: (-one.time_gained, one.total))
        if fitting:
            return fitting[:MOST]
        together = self._together()
        rest = sorted(found, key=lambda one: one.total)
        return [*together, *rest][:MOST]

    def _tried(self, changes: Iterable[Change]) -> list[Advice]:
        asked = list(changes)

        def tried(number: int) -> Advice | None:
            with suppress(PeftkitError, ValidationError):  # a change that does not suit this run is no advice
                return self.try_change([asked[number]])
            return None

        found = in_forks(tried, len(asked)) if self.forks else [tried(number) for number in range(len(asked))]
        return [one for one in found if one is not None]

    def _together(self) -> list[Advice]:
        """Add changes up, in the order of what they cost, until it fits; nothing where all of them do not help."""
        memory = self.now.memory
        weights = sum(size for name, size in memory.components.items() if name.startswith("base weights"))
        if weights > self.card.memory and self.subject.config.model.quantization in ("nf4", "fp4"):
            return []
        taken: list[Change] = []
        least = _WORTH * self.card.memory / 2
        held = memory.for_training + memory.for_evaluation
        for change in smaller(self.subject):
            with suppress(PeftkitError, ValidationError):
                trial, training, judging = self._try([*taken, change])
                if training + judging < held - least:
                    taken, held = [*taken, change], training + judging
                    if trial.fits:
                        return [trial]
        return []

    def try_change(self, changes: Sequence[Change]) -> Advice:
        """Trace the run with some changes.

        Raises:
            PeftkitError: The run cannot be so.
        """
        return self._try(changes)[0]

    def _try(self, changes: Sequence[Change]) -> tuple[Advice, int, int]:
        """Return what the run comes to with some changes, and what training and judging then need."""
        values = {key: value for change in changes for key, value in change.values.items()}
        subject = self.with_values(values)
        # What only training does differently leaves judging as it is.
        judges = any(not key.startswith("train.") or key == "train.max_length" for key in values)
        then = self._forecast(subject, judging=judges)
        training = then.memory.for_training
        judging = then.memory.for_evaluation if judges else self.now.memory.for_evaluation
        total = max(training, judging) + then.memory.context
        advice = Advice(
            values=values,
            words=Change(values, "").words,
            why="; ".join(dict.fromkeys(change.why for change in changes)),
            total=total,
            seconds=then.step.middle,
            memory_gained=self.now.memory.total - total,
            # For each token, so that a change of how many rows a step has does not pass for speed.
            time_gained=1 - then.seconds_per_token / self.now.seconds_per_token,
            fits=total <= self.card.memory,
        )
        return advice, training, judging

    def with_values(self, values: Values) -> Subject:
        """Return the run with other values; its rows are cut where `train.max_length` is lower."""
        config = changed(self.subject.config, values)
        return replace(self.subject, config=config, load=cut(self.subject.load, config))

    def total_of(self, subject: Subject) -> int:
        """Return the bytes of the card that another run takes."""
        return self._forecast(subject, judging=True).memory.total

    def _forecast(self, subject: Subject, *, judging: bool) -> Forecast:
        return read(subject, trace(subject, self.card, judging=judging), self.card)


def cut(load: Workload, config: RunConfig) -> Workload:
    """Return rows that are no longer than a configuration allows."""
    longest = config.train.max_length
    return replace(
        load,
        longest=min(load.longest, longest),
        trained=min(load.trained, longest),
        mean=min(load.mean, float(longest)),
        prompt=min(load.prompt, longest),
    )
