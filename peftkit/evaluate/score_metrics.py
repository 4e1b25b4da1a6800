"""Metrics of scores: how far off a number is, and whether it rises where the truth rises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from peftkit.evaluate.metric import Judged, Metric, quotient, ratio

if TYPE_CHECKING:
    from peftkit.evaluate.metric import Table

_KINDS = ("regression",)


def _pairs(judged: Judged) -> tuple[Table, Table]:
    expected = np.array([float(value) for value in judged.expected])
    answered = np.array([np.nan if answer.value is None else answer.value for answer in judged.answers])
    return expected, answered


def _errors(power: int) -> Metric:
    key, name = {1: ("mae", "Mean absolute error"), 2: ("mse", "Mean squared error")}[power]

    def statistics(judged: Judged) -> Table:
        expected, answered = _pairs(judged)
        return ratio([(abs(a - e) ** power, 1.0) for e, a in zip(expected, answered, strict=True)])

    return Metric(key, name, statistics, quotient, percent=False, better="lower", kinds=_KINDS)


def _moments(x: Table, y: Table) -> Table:
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)


def _correlation(totals: Table) -> float:
    """Pearson's correlation from its moments; a constant side has none, and counts as 0."""
    n, x, y, xx, yy, xy = (float(total) for total in totals)
    spread = (n * xx - x * x) * (n * yy - y * y)
    return (n * xy - x * y) / spread**0.5 if spread > 1e-12 * (1 + (n * xx) * (n * yy)) else 0.0


def _centred(values: Table) -> Table:
    """Move to mean 0: moments of large numbers with a small spread would cancel."""
    return values - values.mean() if len(values) else values


def _pearson(judged: Judged) -> Table:
    return _moments(*(_centred(values) for values in _pairs(judged)))


def _spearman(judged: Judged) -> Table:
    from scipy.stats import rankdata

    return _moments(*(_centred(rankdata(values)) for values in _pairs(judged)))


SCORE_METRICS: Sequence[Metric] = (
    _errors(2),
    _errors(1),
    Metric("pearson", "Pearson correlation", _pearson, _correlation, percent=False, kinds=_KINDS),
    Metric(
        "spearman",
        "Spearman correlation",
        _spearman,
        _correlation,
        percent=False,
        kinds=_KINDS,
        detail="intervals resample the ranks among all rows",
    ),
)
