"""What earlier runs on this machine took, beside what was forecast: how far the time model is off here."""

from __future__ import annotations

import json
import math
import statistics
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit import machine
from peftkit.model.assets import cache_folder
from peftkit.plan.time import Range
from peftkit.rundir import append_lines

_LATEST = 8
"""Runs that count; those before them may be of other releases of libraries."""

_ONE_RUN = 0.3
"""Likely error of a forecast that one run of the same kind corrected; it falls with the root of their number."""


@dataclass(frozen=True)
class Calibration:
    """Measured over forecast seconds of the latest runs on this machine.

    Attributes:
        alike: Of runs of the same kind.
        others: Of runs of other kinds, which say how fast the machine is and not how sure that is.
    """

    alike: tuple[float, ...] = ()
    others: tuple[float, ...] = ()

    def applied(self, step: Range) -> Range:
        """Return a step's seconds as the runs suggest; unchanged without any."""
        if not self.alike:
            return step.times(statistics.median(self.others)) if self.others else step
        middle = step.middle * statistics.median(self.alike)
        spread = 1 + _ONE_RUN / math.sqrt(len(self.alike))
        return Range(
            min(step.middle * min(self.alike), middle / spread),
            middle,
            max(step.middle * max(self.alike), middle * spread),
        )


def calibration_of(kind: str) -> Calibration:
    """Return what runs on this machine took; nothing where there were none.

    Args:
        kind: What decides how far a forecast is off: see `Subject.kind`.
    """
    alike: list[float] = []
    others: list[float] = []
    here = machine.key()
    with suppress(OSError):
        for line in _file().read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError, TypeError, ZeroDivisionError):  # a line that a crash left half written
                row: dict[str, Any] = json.loads(line)
                ratio = float(row["measured"]) / float(row["forecast"])
                if row["machine"] == here and ratio > 0:
                    (alike if row["kind"] == kind else others).append(ratio)
    return Calibration(tuple(alike[-_LATEST:]), tuple(others[-_LATEST:]))


def note(kind: str, forecast: float, measured: float) -> None:
    """Keep a run's seconds per step, forecast without calibration, and measured, unless it was too short to tell."""
    if measured <= 0:
        return
    with suppress(OSError):  # a cache that cannot be written costs no run
        _file().parent.mkdir(parents=True, exist_ok=True)
        row = {"machine": machine.key(), "kind": kind, "forecast": forecast, "measured": measured}
        append_lines(_file(), [row])


def _file() -> Path:
    return cache_folder() / "plan" / "steps.jsonl"
