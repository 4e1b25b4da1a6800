"""The charts of a result: speed, memory over the length of rows, what memory is for, and loss."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from peftkit.bench.result import Result
from peftkit.evaluate.charts import LINE, MUTED, chart, smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (
    "#4178e0",
    "#d08a2e",
    "#2f9e6e",
    "#b05cc4",
    "#c94f4f",
    "#5b8f99",
    "#8a8f3a",
    "#7a6bd1",
    "#b87a5a",
    "#4a4f58",
)
_MARKS = "os^Dv*Ph<>"
_GB = 1e9


def charts_of(result: Result, prefix: str) -> list[Markup]:
    """Draw what a result of training has values for.

    Args:
        result: The result.
        prefix: Begins the charts' names, which must differ on a page.
    """
    if result.kind != "training":
        return []
    drawn = [_speeds(result, prefix), _memory_over_length(result, prefix), *_losses(result, prefix)]
    return [one for one in (*drawn, _breakdown(result, prefix)) if one is not None]


def colour_of(result: Result, contestant: str) -> str:
    """Return a contestant's colour, the same in all charts of a result."""
    names = list(dict.fromkeys(one.contestant for one in result.runs))
    return _COLOURS[names.index(contestant) % len(_COLOURS)]


def _speeds(result: Result, prefix: str) -> Markup | None:
    judging = {name for name, one in result.settings.get("cases", {}).items() if one.get("judges")}
    rows = [
        (one, speed)
        for one in result.medians
        if one.case not in judging and (speed := one.measures.get("tokens_per_second"))
    ]
    if not rows:
        return None

    def draw(axes: Axes) -> None:
        axes.set_title("Speed")
        place, ticks = 0.0, []
        for number, (one, speed) in enumerate(rows):
            place += 0.5 if number and rows[number - 1][0].case != one.case else 0
            bars = axes.barh(place, speed, height=0.8, color=colour_of(result, one.contestant))
            axes.bar_label(bars, fmt=" {:,.0f}")
            turns = result.turns(one.case, one.contestant).values()
            ends = [float(turn.measures["tokens_per_second"] or 0) for turn in turns]
            axes.plot([min(ends), max(ends)], [place, place], color=MUTED, linewidth=1.5)
            ticks.append((place, f"{one.contestant}\n{one.case}"))
            place += 1
        axes.set_yticks([at for at, _ in ticks], [said for _, said in ticks])
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlabel("Tokens per second without padding: median, and range of the rounds")
        axes.grid(visible=False, axis="y")

    said = "; ".join(f"{one.contestant} in {one.case} {speed:,.0f}" for one, speed in rows)
    return chart(f"{prefix}-speed", f"Tokens per second without padding: {said}.", draw, 1.1 + 0.42 * len(rows))


def _memory_over_length(result: Result, prefix: str) -> Markup | None:
    """Draw peak memory over the longest row of each case, with the limit; None where all rows are of one length."""
    lines = {name: points for name, points in _points(result).items() if len({x for x, _, _ in points}) > 1}
    if not lines:
        return None
    limit = result.limit or result.machine["gpu_memory"] or result.machine["memory"]

    def draw(axes: Axes) -> None:
        axes.set_title("Memory over the length of rows")
        for number, (name, points) in enumerate(lines.items()):
            colour = _COLOURS[number % len(_COLOURS)]
            held = [(x, y / _GB) for x, y, fits in points if fits]
            mark = _MARKS[number % len(_MARKS)]
            axes.plot([x for x, _ in held], [y for _, y in held], color=colour, marker=mark, markersize=4, label=name)
            over = [x for x, _, fits in points if not fits]
            axes.plot(over, [limit / _GB] * len(over), "x", color=colour, markersize=8)
        axes.axhline(limit / _GB, color=MUTED, linestyle="--", linewidth=1.2)
        axes.annotate(
            f"limit {limit / _GB:.1f} GB", (0.01, limit / _GB), xycoords=("axes fraction", "data"), va="bottom"
        )
        axes.set_xscale("log", base=2)
        xs = sorted({x for points in lines.values() for x, _, _ in points})
        axes.set_xticks(xs, [f"{x:,}" for x in xs])
        axes.minorticks_off()
        axes.set_ylim(0, 1.12 * limit / _GB)
        axes.set_xlabel("Tokens of the longest row (x: out of memory)")
        axes.set_ylabel("Peak memory (GB)")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=1)

    said = "; ".join(
        f"{name}: "
        + ", ".join(f"{y / _GB:.2f} GB at {x:,}" if fits else f"out of memory at {x:,}" for x, y, fits in one)
        for name, one in lines.items()
    )
    text = f"Peak memory over tokens of the longest row, the limit is {limit / _GB:.1f} GB. {said}."
    return chart(f"{prefix}-memory", text, draw, 2.9 + 0.2 * len(lines))


def _points(result: Result) -> dict[str, list[tuple[int, float, bool]]]:
    """Return the longest row, the peak and whether it fitted, for lines of cases that differ in length alone."""
    found: dict[str, list[tuple[int, float, bool]]] = defaultdict(list)
    cases = result.settings.get("cases", {})
    for one in result.medians:
        case = cases.get(one.case, {})
        longest = case.get("rows", {}).get("longest")
        peak = one.measures.get("peak_allocated")
        failed = [run for run in result.runs if (run.case, run.contestant) == (one.case, one.contestant)]
        out = any(run.status == "out of memory" for run in failed)
        if longest is not None and (peak or out):
            found[f"{one.contestant}, {case.get('quantization')}"].append((longest, float(peak or 0), bool(peak)))
    return {name: sorted(points) for name, points in found.items()}


def _losses(result: Result, prefix: str) -> Iterator[Markup]:
    """Draw the loss of each step in the first round, for each case."""
    for number, case in enumerate(dict.fromkeys(case for case, _ in result.pairs())):
        curves = {
            who: turns[min(turns)].detail.get("losses") or []
            for one, who in result.pairs()
            if one == case and (turns := result.turns(case, who))
        }
        curves = {who: losses for who, losses in curves.items() if len(losses) > 1}
        if curves:
            yield _loss_chart(result, f"{prefix}-loss{number}", case, curves)


def _loss_chart(result: Result, name: str, case: str, curves: dict[str, list[float]]) -> Markup:
    def draw(axes: Axes) -> None:
        axes.set_title(f"Loss: {case}")
        for who, losses in curves.items():
            drawn = smooth(losses) if len(losses) > 40 else losses
            axes.plot(range(1, len(losses) + 1), drawn, color=colour_of(result, who), label=who, linewidth=1.6)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("Step" + (" (smoothed)" if any(len(one) > 40 for one in curves.values()) else ""))
        axes.set_ylabel("Loss (nats per token)")
        axes.legend(loc="upper right")

    said = "; ".join(f"{who} from {losses[0]:.3f} to {losses[-1]:.3f}" for who, losses in curves.items())
    return chart(name, f"Loss of each step, {case}: {said}.", draw, 2.7)


def _breakdown(result: Result, prefix: str) -> Markup | None:
    """Draw what memory is forecast to be for at the peak of peftkit's own turns."""
    rows: dict[str, dict[str, Any]] = {}
    for one in result.runs:
        components = one.detail.get("forecast", {}).get("components")
        if components:
            rows[f"{one.contestant}\n{one.case}"] = components
    if not rows:
        return None
    names = list(dict.fromkeys(name for components in rows.values() for name in components))

    def draw(axes: Axes) -> None:
        axes.set_title("What memory is for, as forecast")
        starts = dict.fromkeys(rows, 0.0)
        for number, name in enumerate(names):
            for place, (row, components) in enumerate(rows.items()):
                width = components.get(name, 0) / _GB
                label = name if place == 0 else None
                colour = _COLOURS[number % len(_COLOURS)]
                axes.barh(place, width, left=starts[row], height=0.62, color=colour, edgecolor=LINE, label=label)
                starts[row] += width
        axes.set_yticks(range(len(rows)), list(rows))
        axes.invert_yaxis()
        axes.set_xlabel("At the peak of a step (GB), without libraries")
        axes.grid(visible=False, axis="y")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.5 / (0.4 * len(rows) + 0.6)), ncols=2)

    said = "; ".join(f"{row.replace(chr(10), ', ')}: {sum(one.values()) / _GB:.2f} GB" for row, one in rows.items())
    height = 1.6 + 0.5 * len(rows) + 0.13 * len(names)
    return chart(f"{prefix}-breakdown", f"Memory at the peak of a step, as forecast: {said}.", draw, height)
