"""Two results side by side: values where the machines are alike, ratios within each one always."""

from __future__ import annotations

from typing import Any

from peftkit.bench.result import Result
from peftkit.bench.tables import Column, columns_of
from peftkit.ui import UI


def comparable(first: Result, second: Result) -> str | None:
    """Return why values of two results cannot be compared; None where they can."""
    for key, what in (("kind", "kinds of machine"), ("cpu", "processors"), ("gpu", "GPUs")):
        here, there = first.machine.get(key), second.machine.get(key)
        if here != there:
            return f"they are of different {what} ({here}; {there})"
    if first.limit != second.limit:
        return "their GPU memory was limited differently"
    return None


def compared(first: Result, second: Result) -> dict[str, Any]:
    """Return both results' medians by case, contestant and measure, and how many times the second's is the first's.

    Returns:
        `why_not` (None where values can be compared), `values` and `ratios`, each a list of rows with `first`,
        `second` and `change`; a change of values is None where they cannot be compared.
    """
    why_not = comparable(first, second)
    before = {(one.case, one.contestant): one for one in first.medians}
    values = []
    for row in second.medians:
        other = before.get((row.case, row.contestant))
        for column in columns_of([row, *([other] if other else [])]):
            was, now = other.measures.get(column.measure) if other else None, row.measures.get(column.measure)
            change = now / was if why_not is None and was and now is not None else None
            values.append(_row(row.case, row.contestant, column.measure, was, now, change))
    held = {(one.case, one.contestant, one.against, one.measure): one.median for one in first.ratios}
    ratios = []
    for one in second.ratios:
        was = held.get((one.case, one.contestant, one.against, one.measure))
        change = one.median / was if was else None
        ratios.append(_row(one.case, f"{one.contestant} / {one.against}", one.measure, was, one.median, change))
    return {"why_not": why_not, "values": values, "ratios": ratios}


def _row(case: str, who: str, measure: str, was: Any, now: Any, change: float | None) -> dict[str, Any]:
    rounded = None if change is None else round(change, 4)
    return {"case": case, "contestant": who, "measure": measure, "first": was, "second": now, "change": rounded}


def show_compared(ui: UI, first: Result, second: Result, names: tuple[str, str]) -> None:
    """Show both results side by side."""
    found = compared(first, second)
    if not (found["values"] or found["ratios"]):
        ui.warn("the two results share no case")
    if found["why_not"]:
        ui.warn(f"values are shown without a ratio, as {found['why_not']}; ratios within one run can be compared")
    columns = {one.measure: one for one in columns_of([*first.medians, *second.medians])}
    ui.table(
        ("case", "contestant", "measure", f">{names[0]}", f">{names[1]}", ">change"),
        [
            (one["case"], one["contestant"], columns[one["measure"]].title, *_shown(columns[one["measure"]], one))
            for one in found["values"]
        ],
    )
    if found["ratios"]:
        ui.table(
            ("case", "ratio within a run", "measure", f">{names[0]}", f">{names[1]}", ">change"),
            [
                (one["case"], one["contestant"], one["measure"], *_plain(one["first"], one["second"]), _times(one))
                for one in found["ratios"]
            ],
        )


def _shown(column: Column, row: dict[str, Any]) -> tuple[str, str, str]:
    first, second = ("" if row[key] is None else column.shown(row[key]) for key in ("first", "second"))
    return first, second, _times(row)


def _plain(*values: float | None) -> list[str]:
    return ["" if value is None else f"{value:.3g}" for value in values]


def _times(row: dict[str, Any]) -> str:
    return "" if row["change"] is None else f"{row['change']:.2f}x"
