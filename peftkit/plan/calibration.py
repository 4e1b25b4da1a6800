"""What earlier runs on this machine took, beside what was forecast: how far the time model is off here."""

from __future__ import annotations

import json
import statistics
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from peftkit.model.assets import cache_folder
from peftkit.plan.time import Range
from peftkit.rundir import append_lines

_LATEST = 20
_SPREAD = 1.15  # least factor between the middle and either end, once runs were measured


@dataclass(frozen=True)
class Calibration:
    """Measured over forecast seconds, of the latest runs on a card."""

    ratios: tuple[float, ...]

    def applied(self, step: Range) -> Range:
        """Return a step's seconds as the runs suggest; unchanged without any."""
        if not self.ratios:
            return step
        middle = step.middle * statistics.median(self.ratios)
        return Range(
            min(step.middle * min(self.ratios), middle / _SPREAD),
            middle,
            max(step.middle * max(self.ratios), middle * _SPREAD),
        )


def calibration_of(card: str) -> Calibration:
    """Return what runs on a card of this machine took; nothing where there were none."""
    ratios: list[float] = []
    with suppress(OSError):
        for line in _file().read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError, TypeError, ZeroDivisionError):  # a line that a crash left half written
                row = json.loads(line)
                if row["card"] == card:
                    ratios.append(float(row["measured"]) / float(row["forecast"]))
    return Calibration(tuple(ratios[-_LATEST:]))


def note(card: str, forecast: float, measured: float) -> None:
    """Keep a run's seconds per step, forecast without calibration, and measured."""
    with suppress(OSError):  # a cache that cannot be written costs no run
        _file().parent.mkdir(parents=True, exist_ok=True)
        append_lines(_file(), [{"card": card, "forecast": forecast, "measured": measured}])


def _file() -> Path:
    return cache_folder() / "plan" / "steps.jsonl"
