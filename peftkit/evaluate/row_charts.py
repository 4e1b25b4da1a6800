"""Charts with a point for each held-out row: predicted scores against given ones, and losses before against after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from peftkit.evaluate.charts import AFTER, BEFORE, MUTED, chart, finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_ROWS = 1000
_HEIGHT = 4.0


def row_charts(predictions: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """Draw what the rows of `predictions.jsonl` allow: scores, losses, or nothing."""
    drawn = [_score_chart(predictions[:_MOST_ROWS]), _loss_chart(predictions[:_MOST_ROWS])]
    return [one for one in drawn if one is not None]


def _score_chart(predictions: Sequence[Mapping[str, Any]]) -> Markup | None:
    pairs: dict[str, list[tuple[float, float]]] = {}
    for stage in ("before", "after"):
        found = ((_number(row.get("expected")), _stage(row, stage, "value")) for row in predictions)
        pairs[stage] = [(x, y) for x, y in found if x is not None and y is not None]
    if not pairs["after"]:
        return None

    def draw(axes: Axes) -> None:
        axes.set_title("Predicted and given scores")
        for stage, colour, marker in (("before", BEFORE, "o"), ("after", AFTER, "D")):
            xs, ys = [x for x, _ in pairs[stage]], [y for _, y in pairs[stage]]
            axes.scatter(xs, ys, s=9, color=colour, marker=marker, alpha=0.55, label=stage)
        ends = [min(x for x, _ in pairs["after"]), max(x for x, _ in pairs["after"])]
        axes.plot(ends, ends, color=MUTED, linewidth=1)
        axes.set_xlabel("Given score (line: predicted exactly)")
        axes.set_ylabel("Predicted score")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.1)

    return chart("scores", f"Predicted against given scores of {len(pairs['after'])} held-out rows.", draw, _HEIGHT)


def _loss_chart(predictions: Sequence[Mapping[str, Any]]) -> Markup | None:
    pairs = []
    for row in predictions:
        before, after = (_per_token(row, stage) for stage in ("before", "after"))
        if before is not None and after is not None:
            pairs.append((before, after))
    if not pairs:
        return None
    lower = sum(after < before for before, after in pairs)

    def draw(axes: Axes) -> None:
        axes.set_title("Loss of each held-out row")
        axes.scatter([x for x, _ in pairs], [y for _, y in pairs], s=9, color=AFTER, alpha=0.6)
        ends = [min(map(min, pairs)), max(map(max, pairs))]
        axes.plot(ends, ends, color=MUTED, linewidth=1)
        axes.set_xlabel("Before training (nats per token)")
        axes.set_ylabel("After training (below the line: better)")

    return chart("losses", f"Loss of {len(pairs)} held-out rows before and after; {lower} fell.", draw, _HEIGHT)


def _stage(row: Mapping[str, Any], stage: str, key: str) -> float | None:
    part = row.get(stage)
    return finite(part.get(key)) if isinstance(part, dict) else None


def _per_token(row: Mapping[str, Any], stage: str) -> float | None:
    nll, tokens = _stage(row, stage, "nll"), _stage(row, stage, "tokens")
    return nll / tokens if nll is not None and tokens else None


def _number(value: object) -> float | None:
    try:
        return finite(float(str(value)))
    except ValueError:
        return None
