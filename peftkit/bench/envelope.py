"""What other benchmarks leave, in the same form as experiments do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from peftkit.bench.result import Result, Run, summed_up
from peftkit.bench.surroundings import surroundings


def result_of(
    kind: Literal["merging", "preparing rows", "forecast", "planning", "start-up"],
    name: str,
    command: str,
    runs: Sequence[Run],
    *,
    summary: str = "",
    settings: dict[str, Any] | None = None,
    compared: Sequence[str] = (),
) -> Result:
    """Return a result measured on this machine, with medians and ratios.

    Args:
        kind: What was measured.
        name: Of the benchmark.
        command: What was typed.
        runs: Every turn.
        summary: What it is for.
        settings: What was done in each case.
        compared: Measures whose ratios are of interest; the first contestant is compared with all others.
    """
    result = Result(
        kind=kind,
        name=name,
        summary=summary,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        settings=settings or {},
        rounds=max((one.round for one in runs), default=1),
        runs=list(runs),
        **surroundings(),
    )
    return summed_up(result, compared, None)
