"""Results as tables on the screen: every contestant of every case, and two results side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from peftkit.bench.result import Median, Quality, Ratio, Result
from peftkit.ui import UI, percent, size


@dataclass(frozen=True)
class Column:
    """A measure as it is shown.

    Attributes:
        measure: Its name in a result.
        title: What stands above it.
        shown: Writes a value.
    """

    measure: str
    title: str
    shown: Callable[[float], str]


def seconds(value: float) -> str:
    """Write seconds, with milliseconds where they matter."""
    return f"{value:.3f} s" if value < 10 else f"{value:.1f} s"


COLUMNS = (
    Column("tokens_per_second", "tokens/s", lambda value: f"{value:,.1f}"),
    Column("trained_tokens_per_second", "trained tokens/s", lambda value: f"{value:,.1f}"),
    Column("padding_share", "padding", percent),
    Column("step_p20", "step p20", seconds),
    Column("step_p50", "p50", seconds),
    Column("step_p80", "p80", seconds),
    Column("forecast_step", "forecast", seconds),
    Column("seconds", "seconds", seconds),
    Column("peak_allocated", "peak memory", size),
    Column("peak_reserved", "reserved", size),
    Column("forecast_memory", "forecast", size),
    Column("mfu", "MFU", percent),
    Column("hfu", "with recomputing", percent),
    Column("final_loss", "last loss", lambda value: f"{value:.4f}"),
    Column("held_out_loss", "held-out loss", lambda value: f"{value:.4f}"),
)
"""Measures that are shown, where a result has them; `runs.csv` has all of them."""

FORMULA = (
    "MFU: operations that training needs (4 for each parameter of a linear layer that a token passes, and attention "
    "over the tokens before it) over what the machine can do."
)


def columns_of(medians: Sequence[Median]) -> list[Column]:
    """Return the columns that some row has a value for."""
    return [one for one in COLUMNS if any(row.measures.get(one.measure) is not None for row in medians)]


def show_result(ui: UI, result: Result) -> None:
    """Show a result: who did what how fast, the ratios, and whether the losses are equal."""
    machine = result.machine
    ui.say(f"{result.name}: {result.summary}" if result.summary else result.name, style="bold")
    ui.note(
        f"{machine['gpu'] or machine['cpu']}, {machine['kind']}; {result.rounds} rounds, medians; {result.date[:10]}"
    )
    columns = columns_of(result.medians)
    ui.table(
        ("case", "contestant", *(f">{one.title}" for one in columns), ""),
        [(one.case, one.contestant, *cells(one, columns), remark(result, one)) for one in result.medians],
    )
    if ratios := result.ratios:
        ui.table(("case", "ratio", ">median", ">low", ">high", ">rounds"), [ratio_row(one) for one in ratios])
    for quality in result.quality:
        ui.say(said_of(quality), style="" if quality.equal else "yellow")
    for failure in failures(result):
        ui.say(failure, style="yellow")
    if any(row.measures.get("mfu") is not None for row in result.medians):
        ui.note(FORMULA)


def cells(row: Median, columns: Sequence[Column]) -> list[str]:
    """Return a row's values as text; empty where there is none."""
    values = [row.measures.get(one.measure) for one in columns]
    return ["" if value is None else one.shown(value) for one, value in zip(columns, values, strict=True)]


def remark(result: Result, row: Median) -> str:
    """Return what must be said beside a row: that it did not run, or that its speed stands without its loss."""
    if not row.runs:
        return "did not run"
    if result.kind != "training" or row.contestant == result.reference:
        return ""
    if result.settings.get("cases", {}).get(row.case, {}).get("judges"):
        return "for the loss"
    judged = [one for one in result.quality if (one.case, one.contestant) == (row.case, row.contestant)]
    if not judged:
        return "loss not compared"
    return "" if judged[0].equal else f"loss {100 * judged[0].difference:+.1f}%"


def ratio_row(one: Ratio) -> tuple[str, ...]:
    """Return a ratio as the cells of a table."""
    named = f"{one.measure}: {one.contestant} / {one.against}"
    return one.case, named, f"{one.median:.2f}", f"{one.low:.2f}", f"{one.high:.2f}", str(one.rounds)


def said_of(one: Quality) -> str:
    """Say how a contestant's loss is beside the reference's."""
    verdict = "not above it by more than 1%" if one.equal else "MORE THAN 1% ABOVE, so its speed does not count"
    which = "over all steps of the same batches" if one.measure == "curve_loss" else "on held-out rows"
    return (
        f"{one.case}: loss of {one.contestant} {which} {one.loss:.4f}, of {one.against} {one.reference_loss:.4f} "
        f"({100 * one.difference:+.2f}%): {verdict}"
    )


def failures(result: Result) -> list[str]:
    """Return a line for each turn that did not go well."""
    return [
        f"{one.case}: {one.contestant}, round {one.round}: {one.status}, {one.reason}"
        for one in result.runs
        if one.status != "ok"
    ]
