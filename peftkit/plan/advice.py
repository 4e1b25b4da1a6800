"""What to change: each change traced anew, with the memory and time that it gains or loses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from peftkit.config import RunConfig
from peftkit.errors import NotModelledError, PeftkitError, first_line
from peftkit.plan.cards import Card
from peftkit.plan.changes import Change, Values, changed, faster, smaller
from peftkit.plan.depth import Outline, outline
from peftkit.plan.forecast import Forecast, Subject, device_of
from peftkit.plan.time import step_time
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
    """

    def __init__(self, subject: Subject, now: Forecast) -> None:
        self.subject, self.now = subject, now
        self.card: Card = now.card
        memory = now.memory
        self._rounding = memory.reserved / max(1, memory.allocated)
        self._scale = 1.0
        self._scale = now.memory.total / self._total(self._outline(subject))
        self._seconds_now = self._seconds(subject, self._outline(subject))

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
        found = []
        for change in changes:
            with suppress(PeftkitError, ValidationError):  # a change that does not suit this run is no advice
                found.append(self.try_change([change]))
        return found

    def _together(self) -> list[Advice]:
        """Add changes up, in the order of what they cost, until it fits; nothing where all of them do not help."""
        taken: list[Change] = []
        total = self.now.memory.total
        for change in smaller(self.subject):
            with suppress(PeftkitError, ValidationError):
                trial = self.try_change([*taken, change])
                if trial.total < total - _WORTH * self.card.memory / 2:
                    taken, total = [*taken, change], trial.total
                    if trial.fits:
                        return [trial]
        return []

    def try_change(self, changes: Sequence[Change]) -> Advice:
        """Trace the run with some changes.

        Raises:
            PeftkitError: The run cannot be so.
        """
        values = {key: value for change in changes for key, value in change.values.items()}
        subject = self.with_values(values)
        traced = self._outline(subject)
        total = self._total(traced)
        seconds = self._seconds(subject, traced)
        return Advice(
            values=values,
            words=Change(values, "").words,
            why="; ".join(dict.fromkeys(change.why for change in changes)),
            total=total,
            seconds=seconds,
            memory_gained=self.now.memory.total - total,
            time_gained=1 - seconds / self._seconds_now,
            fits=total <= self.card.memory,
        )

    def with_values(self, values: Values) -> Subject:
        """Return the run with other values; its rows are cut where `train.max_length` is lower."""
        config = changed(self.subject.config, values)
        return replace(self.subject, config=config, load=cut(self.subject.load, config))

    def total_of(self, subject: Subject) -> int:
        """Return the bytes of the card that another run takes."""
        return self._total(self._outline(subject))

    def _outline(self, subject: Subject) -> Outline:
        config, load = subject.config, subject.load
        device = device_of(config, self.card)
        try:
            return outline(
                subject.settings, config, subject.family, load.batch(config), device, load.judged(config)
            )
        except PeftkitError:
            raise
        except Exception as error:  # as in `forecast.trace`
            raise NotModelledError(f"the plan cannot model a change: {first_line(error)}") from error

    def _total(self, traced: Outline) -> int:
        workspace = self.card.workspace if self.card.kind == "cuda" else 0
        return round(((traced.peak + workspace) * self._rounding + self.now.memory.context) * self._scale)

    def _seconds(self, subject: Subject, traced: Outline) -> float:
        """Return the seconds of an optimizer step, for each of its rows' tokens as many as now."""
        train = subject.config.train
        asked = train.gradient_accumulation_steps
        seconds = step_time(traced.work, self.card, min(asked, 2), asked).middle
        batch = subject.load.batch(subject.config)
        held = batch.rows * batch.length * asked
        share = min(1.0, subject.load.tokens_per_step(subject.config) / held)
        # Per token, so that a change of how many rows a step has does not pass for speed.
        return seconds * share / subject.load.tokens_per_step(subject.config) * self.now.tokens_per_step


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
