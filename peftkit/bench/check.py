"""The gate: what was measured now, beside the baseline of this kind of machine, by ratios within one run only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from peftkit.bench.experiment import OWN
from peftkit.bench.result import EQUAL, Ratio, Result
from peftkit.errors import ConfigError
from peftkit.rundir import write_json

SPEED, MEMORY = "tokens_per_second", "peak_allocated"
SPEED_TOLERANCE, MEMORY_TOLERANCE = 0.3, 0.15
"""Shares by which a ratio may be worse than the baseline's: turns on a busy machine differ by up to a quarter."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Baseline(_Part):
    """Ratios of one kind of machine.

    Attributes:
        date: When they were measured.
        commit: At which commit.
        versions: Of the libraries.
        rounds: Turns of each contestant.
        ratios: The ratios.
    """

    date: str
    commit: str | None
    versions: dict[str, str]
    rounds: int
    ratios: list[Ratio]


class Baselines(_Part):
    """The content of a baseline's file: what was measured on each kind of machine."""

    format: Literal["peftkit-baseline-1"] = "peftkit-baseline-1"
    machines: dict[str, Baseline] = {}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        case: The experiment.
        what: In words.
        measured: Now.
        allowed: The worst value that passes; None where there is no baseline.
        passed: Whether it does.
    """

    case: str
    what: str
    measured: float
    allowed: float | None
    passed: bool


def baseline_file(experiments: Path) -> Path:
    """Return where the baseline of a file of experiments stands: beside it."""
    return experiments.with_suffix(".baseline.json")


def read_baselines(file: Path) -> Baselines:
    """Read a baseline's file; one that is not there holds nothing.

    Raises:
        ConfigError: It is damaged.
    """
    if not file.is_file():
        return Baselines()
    try:
        return Baselines.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"the baseline '{file}' is damaged: {'.'.join(map(str, first['loc']))}: {first['msg']}; record it again "
            "with --record"
        ) from error


def record(result: Result, file: Path) -> None:
    """Keep a result's ratios as the baseline of its kind of machine; those of other kinds stay."""
    held = read_baselines(file)
    own = Baseline(
        date=result.date,
        commit=result.commit,
        versions=result.versions,
        rounds=result.rounds,
        ratios=[one for one in result.ratios if one.measure in (SPEED, MEMORY)],
    )
    machines = {**held.machines, str(result.machine["kind"]): own}
    write_json(file, Baselines(machines=machines).model_dump(mode="json"))


def findings(
    result: Result,
    baseline: Baseline | None,
    speed_tolerance: float = SPEED_TOLERANCE,
    memory_tolerance: float = MEMORY_TOLERANCE,
) -> Iterator[Finding]:
    """Give everything that is looked at: that peftkit ran, its speed and memory beside others', its loss.

    Args:
        result: What was measured now.
        baseline: Of this kind of machine; None judges only what needs none.
        speed_tolerance: Share by which a ratio of speeds may be below the baseline's.
        memory_tolerance: Share by which a ratio of memory may be above it.
    """
    for case, who in result.pairs():
        if who == OWN:
            failed = sum(one.status != "ok" for one in result.runs if (one.case, one.contestant) == (case, who))
            yield Finding(case, "turns of peftkit that failed", failed, 0, failed == 0)
    held = {(one.case, one.contestant, one.against, one.measure): one for one in baseline.ratios} if baseline else {}
    measured = {(one.case, one.contestant, one.against, one.measure): one for one in result.ratios}
    for key in dict.fromkeys([*held, *measured]):
        case, who, against, measure = key
        if measure not in (SPEED, MEMORY):
            continue
        now, before = measured.get(key), held.get(key)
        said = f"{'speed' if measure == SPEED else 'memory'} of {who} over {against}"
        if now is None:
            yield Finding(case, f"{said}: not measured", 0.0, None, passed=False)
        elif before is None:
            yield Finding(case, said, now.median, None, passed=True)
        elif measure == SPEED:
            allowed = before.median * (1 - speed_tolerance)
            yield Finding(case, f"{said}, at least", now.median, allowed, now.median >= allowed)
        else:
            allowed = before.median * (1 + memory_tolerance)
            yield Finding(case, f"{said}, at most", now.median, allowed, now.median <= allowed)
    for one in result.quality:
        if one.contestant == OWN:
            what = f"loss above that of {one.against}, as a share, at most"
            yield Finding(one.case, what, one.difference, EQUAL, one.equal)
