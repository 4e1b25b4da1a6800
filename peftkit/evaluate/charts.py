"""The report's charts: matplotlib figures as inline SVG that follows the page's light or dark colours.

Figures are drawn in placeholder colours, and `_inline` turns each of them into a CSS variable of the page with a
fallback. Fonts are the page's own (`svg.fonttype: none`). Equal values give equal bytes.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# placeholder in the figure -> what the page's style sheet calls it, with a fallback that can be read on both grounds
_INK, MUTED, LINE = "#0a0b01", "#0a0b02", "#0a0b03"
BEFORE, AFTER, _CARD = "#0a0b04", "#0a0b05", "#0a0b06"
_THEME = {
    _INK: "var(--ink, #7a8594)",
    MUTED: "var(--muted, #7a8594)",
    LINE: "var(--line, #b8c0cc)",
    BEFORE: "var(--before, #d08a2e)",
    AFTER: "var(--after, #4178e0)",
    _CARD: "var(--card, none)",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "peftkit",
    "text.parse_math": False,  # a metric may be called "$x$"
    "font.size": 9.5,
    "text.color": _INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": _INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.handlelength": 1.0,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.2,
    "lines.solid_capstyle": "round",
}
# Inches. At 72 points an inch this is the width of a phone, so that text keeps its size there.
_WIDTH = 4.6
_MOST_POINTS = 1500

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Estimate:
    """A measured value with the two ends of its 95% interval and the number of rows behind it."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True)
class Comparison:
    """One metric before and after training, and the paired difference; percent metrics are shares from 0 to 1."""

    key: str
    name: str
    percent: bool
    better: str
    before: Estimate | None
    after: Estimate | None
    difference: Estimate | None

    @property
    def tone(self) -> str:
        """`good` or `bad` where the whole interval of the difference says so, else `neutral`."""
        change = self.difference
        if change is None or change.low is None or change.high is None or self.better not in ("higher", "lower"):
            return "neutral"
        if change.low <= 0 <= change.high:
            return "neutral"
        return "good" if (change.low > 0) == (self.better == "higher") else "bad"


def finite(value: object) -> float | None:
    """Give a parsed JSON value as a number, and None for anything that is not a finite one."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None  # type: ignore[arg-type]


def comparison_charts(comparisons: Sequence[Comparison]) -> list[Markup]:
    """Draw the metrics that share the unit percent: the values, and where both were measured the differences."""
    shares = [item for item in comparisons if item.percent]
    changes = [item for item in shares if item.difference]
    return [draw(items) for draw, items in ((_comparison_chart, shares), (_difference_chart, changes)) if items]


def training_charts(lines: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """Draw the curves of `metrics.jsonl`: loss, learning rate, tokens per second and memory."""
    steps = {
        step: line for line in lines if (step := finite(line.get("step"))) is not None
    }  # a resumed step counts once
    logged = [steps[step] for step in sorted(steps)]
    # seconds since training began; a resumed run may start again at 0, and then its steps are the time
    timed = [line for line in logged if finite(line.get("seconds")) is not None]
    seconds = [line["seconds"] for line in timed]
    elapsed = len(timed) > 1 and all(a < b for a, b in itertools.pairwise(seconds))
    time, time_label = ("seconds", "Time (seconds)") if elapsed else ("step", "Step")

    def curve(x: str, y: str, scale: float = 1) -> Points:
        pairs = ((finite(line.get(x)), finite(line.get(y))) for line in logged)
        return [(a, b * scale) for a, b in pairs if a is not None and b is not None]

    loss = curve("step", "loss")
    rate = curve("step", "learning_rate")
    speed = curve("step", "tokens_per_second")
    memory = curve(time, "memory", 1e-9)
    drawn = [
        loss and _line_chart("loss", "Training loss", loss, "Step", "Loss (nats per token)", smoothed=True),
        rate and _line_chart("rate", "Learning rate", rate, "Step", "Learning rate", zero=True),
        speed and _line_chart("speed", "Throughput", speed, "Step", "Tokens per second", smoothed=True, zero=True),
        memory and _line_chart("memory", "Memory in use", memory, time_label, "Memory (GB)", zero=True),
    ]
    return [chart for chart in drawn if isinstance(chart, Markup)]


def length_chart(histogram: Mapping[str, Any]) -> Markup | None:
    """Draw how many rows (`counts`) have a length between each two `edges`, in tokens."""
    edges, counts = histogram.get("edges") or [], histogram.get("counts") or []
    return _histogram_chart(edges, counts) if counts and len(edges) == len(counts) + 1 else None


def stage_chart(stages: Mapping[str, Any]) -> Markup | None:
    """Draw the seconds that each stage of the run took, in the order of the run."""
    known = {stage: seconds for stage, value in stages.items() if (seconds := finite(value)) is not None}
    return _stage_chart(known) if known else None


def _comparison_chart(comparisons: Sequence[Comparison]) -> Markup:
    """Draw every percent metric before and after, in % of the rows, with 95% intervals."""

    def draw(axes: Axes) -> None:
        axes.set_title("Before and after")
        for position, item in enumerate(comparisons):
            apart = 0.0
            if item.before and item.after:
                ends = [100 * item.before.value, 100 * item.after.value]
                axes.plot(ends, [position, position], color=LINE, linewidth=3, zorder=1)
                apart = 0.1 if abs(ends[1] - ends[0]) < 8 else 0.0  # near values must not hide each other
            for estimate, shift, colour, marker in (
                (item.before, -apart, BEFORE, "o"),
                (item.after, apart, AFTER, "D"),
            ):
                if estimate:
                    _estimate(axes, estimate, position + shift, colour, marker)
        axes.set_xlim(-3, 103)
        axes.set_xlabel("Share of the rows (%), bars: 95% interval")
        _metric_axis(axes, comparisons)
        handles = [
            axes.plot([], [], "o", color=BEFORE, label="before")[0],
            axes.plot([], [], "D", color=AFTER, label="after")[0],
        ]
        axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.1)

    said = "; ".join(f"{c.name} {_said(c.before)} before, {_said(c.after)} after" for c in comparisons)
    return chart("comparison", f"Before and after training, in percent. {said}.", draw, _rows_height(comparisons))


def _difference_chart(comparisons: Sequence[Comparison]) -> Markup:
    """Draw the paired difference of every percent metric, in points, with its 95% interval and a line at zero."""

    def draw(axes: Axes) -> None:
        axes.set_title("Change through training")
        axes.axvline(0, color=MUTED, linewidth=1.2)
        for position, item in enumerate(comparisons):
            if item.difference:
                _estimate(axes, item.difference, position, AFTER, "D")
        axes.margins(x=0.08)
        axes.set_xlabel("After minus before (points), bars: 95% interval")
        _metric_axis(axes, comparisons)

    said = "; ".join(f"{c.name} {_said(c.difference)}" for c in comparisons)
    return chart("difference", f"Change through training, in points. {said}.", draw, _rows_height(comparisons))


def _line_chart(
    name: str, title: str, points: Points, x_label: str, y_label: str, *, smoothed: bool = False, zero: bool = False
) -> Markup:
    """Draw a curve; with `smoothed`, the points stand thin behind their moving average; `zero` starts the axis at 0."""
    from matplotlib.ticker import MaxNLocator

    xs, ys = [x for x, _ in points], [y for _, y in points]
    stride = -(-len(points) // _MOST_POINTS)
    marker = "o" if len(points) == 1 else ""  # a line through one point cannot be seen

    def draw(axes: Axes) -> None:
        axes.set_title(title)
        if smoothed and len(points) > 2:
            axes.plot(xs[::stride], ys[::stride], color=BEFORE, linewidth=0.8, alpha=0.75, label="logged")
            axes.plot(xs[::stride], smooth(ys)[::stride], color=AFTER, linewidth=2, label="smoothed")
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.1)
        else:
            axes.plot(xs[::stride], ys[::stride], color=AFTER, linewidth=1.8, marker=marker)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if x_label == "Step":
            axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.6g}")
        if zero:
            axes.set_ylim(bottom=0, top=1.1 * max(ys) or 1)

    said = f"first {ys[0]:.3g}, last {ys[-1]:.3g}, lowest {min(ys):.3g}, highest {max(ys):.3g}"
    return chart(name, f"{title}: {y_label} over {x_label}, {said}.", draw, 2.5)


def _histogram_chart(edges: Sequence[float], counts: Sequence[float]) -> Markup:
    def draw(axes: Axes) -> None:
        widths = [high - low for low, high in itertools.pairwise(edges)]
        axes.set_title("Lengths of the training rows")
        axes.bar(list(edges[:-1]), list(counts), widths, align="edge", color=AFTER, edgecolor=_CARD, linewidth=1)
        axes.set_xlabel("Length (tokens)")
        axes.set_ylabel("Rows")
        axes.grid(visible=False, axis="x")

    said = f"{sum(counts):g} rows between {edges[0]:g} and {edges[-1]:g} tokens"
    return chart("lengths", f"Lengths of the training rows: {said}.", draw, 2.5)


def _stage_chart(stages: Mapping[str, float]) -> Markup:
    def draw(axes: Axes) -> None:
        axes.set_title("Time of each stage")
        positions = range(len(stages))
        bars = axes.barh(positions, list(stages.values()), height=0.62, color=AFTER)
        axes.bar_label(bars, fmt="%.1f", padding=4, color=_INK)
        axes.set_yticks(positions, [stage.replace("_", " ") for stage in stages])
        axes.set_ylim(len(stages) - 0.5, -0.5)
        axes.margins(x=0.14)
        axes.set_xlabel("Time (seconds)")
        axes.grid(visible=False, axis="y")

    said = "; ".join(f"{stage.replace('_', ' ')} {seconds:.1f}" for stage, seconds in stages.items())
    return chart("stages", f"Seconds of each stage: {said}.", draw, 1.1 + 0.3 * len(stages))


def smooth(values: Sequence[float]) -> list[float]:
    """Give the mean around each value, over about a twentieth of all; near the start, where a loss falls fast, less."""
    sums = [0.0, *itertools.accumulate(values)]
    averages = []
    for position in range(len(values)):
        half = min(len(values) // 40 + 1, position)
        first, end = position - half, min(position + half + 1, len(values))
        averages.append((sums[end] - sums[first]) / (end - first))
    return averages


def _estimate(axes: Axes, estimate: Estimate, position: float, colour: str, marker: str) -> None:
    value = 100 * estimate.value
    errors = None
    if estimate.low is not None and estimate.high is not None:
        errors = [[max(0.0, value - 100 * estimate.low)], [max(0.0, 100 * estimate.high - value)]]
    axes.errorbar(
        [value], [position], xerr=errors, fmt=marker, color=colour, markersize=6, capsize=3, elinewidth=1.6, zorder=2
    )


def _metric_axis(axes: Axes, comparisons: Sequence[Comparison]) -> None:
    axes.set_yticks(range(len(comparisons)), [item.name.replace(" (", "\n(", 1) for item in comparisons])
    axes.tick_params(axis="y", length=0, labelcolor=_INK)
    axes.set_ylim(len(comparisons) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def _rows_height(comparisons: Sequence[Comparison]) -> float:
    return 1.2 + 0.46 * len(comparisons)


def _said(estimate: Estimate | None) -> str:
    return "not measured" if estimate is None else f"{100 * estimate.value:.1f}"


def chart(name: str, description: str, draw: Callable[[Axes], None], height: float) -> Markup:
    """Draw a figure of `height` inches as inline SVG; `description` is what a screen reader says of it."""
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own matplotlibrc must not change a report
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure.subplots())
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    return _inline(buffer.getvalue(), name, description)


def _inline(svg: str, name: str, description: str) -> Markup:
    """Make a file of matplotlib's a part of a page: sized by the page, with its fonts, colours and unique ids."""
    view_box = "".join(re.findall(r'viewBox="([^"]+)"', svg)[:1])
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    for placeholder, variable in _THEME.items():
        body = body.replace(placeholder, variable)
    opening = Markup('<svg class="chart" role="img" aria-label="{}" viewBox="{}" xmlns="http://www.w3.org/2000/svg">')
    # safe: matplotlib escapes every text that it draws
    return opening.format(description, view_box) + Markup(re.sub(r"\n\s*", "\n", body))  # noqa: S704
