"""`peftkit plan`: from a recipe and cards to forecasts, a verdict and advice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peftkit import machine
from peftkit.model.family import family_by
from peftkit.plan.advice import Advice, Adviser
from peftkit.plan.calibration import calibration_of
from peftkit.plan.cards import Card, find_card
from peftkit.plan.choose import with_layers_chosen
from peftkit.plan.forecast import Forecast, Subject, device_of, read, trace
from peftkit.plan.outline import Outline
from peftkit.plan.rates import this_machine
from peftkit.plan.search import Largest, largest, require_maximum
from peftkit.plan.shapes import settings_for
from peftkit.plan.step import Device
from peftkit.plan.workload import find_workload
from peftkit.resolve import Resolved


@dataclass(frozen=True)
class Plan:
    """What a run takes on one card or several, and what to change.

    Attributes:
        subject: The run.
        forecasts: One for each card.
        advice: For the first card, the best first.
        largest: The largest value that fits on the first card, where one was asked for.
    """

    subject: Subject
    forecasts: list[Forecast]
    advice: list[Advice]
    largest: Largest | None = None

    @property
    def fits(self) -> bool:
        """Whether the run fits on every card."""
        return all(one.fits for one in self.forecasts)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values: bytes and seconds."""
        config, load = self.subject.config, self.subject.load
        batch = load.batch(config)
        found: dict[str, Any] = {
            "model": config.model.path,
            "family": self.subject.family,
            "fits": self.fits,
            "batch": {"rows": batch.rows, "length": batch.length, "trained": batch.trained, "padded": batch.padded},
            "rows": {"train": load.rows, "mean_length": round(load.mean, 1), "source": load.source},
            "forecasts": [one.as_json() for one in self.forecasts],
            "advice": [one.as_json() for one in self.advice],
        }
        if self.largest is not None:
            found["largest"] = {"key": self.largest.key, "value": self.largest.value, "memory": self.largest.total}
        return found


def plan_run(resolved: Resolved, gpus: Sequence[str] = (), maximum: str | None = None) -> Plan:
    """Forecast a run before anything of it is fetched.

    Args:
        resolved: The run.
        gpus: Names or sizes of cards; empty takes this machine.
        maximum: What to find the largest value of: `max_length`, `batch`, `rank` or `model`.

    Raises:
        ConfigError: The run cannot be as it is configured, or a card has no such name.
        ModelError: There is no such base model.
        NotModelledError: A part of it cannot be modelled.
    """
    machine.quiet_libraries()
    if maximum is not None:
        require_maximum(maximum, resolved.config)
    cards = [find_card(word) for word in gpus] or [this_machine()]
    subject = with_layers_chosen(subject_of(resolved), cards[0])
    forecasts = forecasts_of(subject, cards)
    if maximum is not None:
        return Plan(subject, forecasts, [], largest(maximum, subject, forecasts[0]))
    return Plan(subject, forecasts, Adviser(subject, forecasts[0], forks=True).advise())


def subject_of(resolved: Resolved) -> Subject:
    """Find out what a run's model and rows are, without fetching weights.

    Raises:
        ConfigError: The model cannot do the task.
        ModelError: There is no such model.
    """
    settings = settings_for(resolved.config.model)
    family = family_by(settings, resolved.config)
    config, load = find_workload(resolved, family)
    return Subject(settings, config, family, load)


def forecasts_of(subject: Subject, cards: Sequence[Card]) -> list[Forecast]:
    """Forecast a run on several cards; cards that compute alike share a trace."""
    traces: dict[Device, Outline] = {}
    found = []
    for card in cards:
        device = device_of(subject.config, card)
        if device not in traces:
            traces[device] = trace(subject, card)
        calibration = calibration_of(subject.kind) if card.here else None
        found.append(read(subject, traces[device], card, calibration))
    return found
