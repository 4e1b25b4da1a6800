"""Metrics with their uncertainty, and what changed between two models on the same rows.

Shares of rows carry Wilson's score interval; macro-F1 and every difference carry a percentile bootstrap over rows, the
same resampled rows for both models, so that the difference is a paired one (Efron & Tibshirani 1993, chapter 13).
McNemar's exact test compares the rows that only one of the two got right (McNemar 1947).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peftkit.evaluate.answers import Answer

Interval = dict[str, float | int]
INVALID = "(no label)"


@dataclass(frozen=True)
class Judged:
    """The answers of one model as arrays over rows, [n]."""

    expected: NDArray[np.str_]
    answered: NDArray[np.str_]
    likeliest: NDArray[np.str_]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, expected: Sequence[str], answers: Sequence[Answer], labels: Sequence[str]) -> Judged:
        """Collect what was expected and what was answered."""
        return cls(
            np.array(expected),
            np.array([answer.label or INVALID for answer in answers]),
            np.array([answer.likeliest or INVALID for answer in answers]),
            tuple(labels),
        )


def _macro_f1(judged: Judged, rows: NDArray[np.intp]) -> float:
    """Mean of each label's F1 = 2 TP / (2 TP + FP + FN); a label that no row has or gets counts as 0."""
    expected, answered = judged.expected[rows], judged.answered[rows]
    scores = []
    for label in judged.labels:
        true = int(((expected == label) & (answered == label)).sum())
        total = int((expected == label).sum() + (answered == label).sum())
        scores.append(2 * true / total if total else 0.0)
    return float(np.mean(scores))


def _share(hits: Callable[[Judged], NDArray[np.bool_]]) -> Callable[[Judged, NDArray[np.intp]], float]:
    return lambda judged, rows: float(hits(judged)[rows].mean())


_HITS: dict[str, Callable[[Judged], NDArray[np.bool_]]] = {
    "accuracy": lambda judged: judged.answered == judged.expected,
    "likelihood_accuracy": lambda judged: judged.likeliest == judged.expected,
    "valid_answers": lambda judged: judged.answered != INVALID,
}
METRICS: dict[str, Callable[[Judged, NDArray[np.intp]], float]] = {
    **{name: _share(hits) for name, hits in _HITS.items()},
    "macro_f1": _macro_f1,
}


def compare(
    before: Judged, after: Judged, metrics: Sequence[str], *, samples: int, seed: int = 0
) -> dict[str, Mapping[str, Any]]:
    """Judge two models on the same rows.

    Returns:
        `before`, `after` and `difference`, each metric as value, low, high (95%) and n; and `mcnemar` with the rows
        that were fixed and broken and the two-sided p-value.
    """
    n = len(before.expected)
    everything = np.arange(n)
    resampled = np.random.default_rng(seed).integers(0, n, size=(samples, n))
    result: dict[str, dict[str, Any]] = {"before": {}, "after": {}, "difference": {}}
    for name in metrics:
        metric = METRICS[name]
        values = {which: metric(judged, everything) for which, judged in (("before", before), ("after", after))}
        draws = {
            which: np.array([metric(judged, rows) for rows in resampled])
            for which, judged in (("before", before), ("after", after))
        }
        for which, judged in (("before", before), ("after", after)):
            if name in _HITS:
                result[which][name] = _wilson(int(_HITS[name](judged).sum()), n)
            else:
                result[which][name] = _percentiles(values[which], draws[which], n)
        difference = values["after"] - values["before"]
        result["difference"][name] = _percentiles(difference, draws["after"] - draws["before"], n)
    return {**result, "mcnemar": _mcnemar(before, after)}


def _wilson(hits: int, n: int) -> Interval:
    from scipy.stats import binomtest

    interval = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return {"value": hits / n, "low": float(interval.low), "high": float(interval.high), "n": n}


def _percentiles(value: float, draws: NDArray[np.float64], n: int) -> Interval:
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high), "n": n}


def _mcnemar(before: Judged, after: Judged) -> dict[str, float | int]:
    from scipy.stats import binomtest

    was, now = _HITS["accuracy"](before), _HITS["accuracy"](after)
    fixed, broken = int((~was & now).sum()), int((was & ~now).sum())
    p_value = float(binomtest(fixed, fixed + broken).pvalue) if fixed + broken else 1.0
    return {"fixed": fixed, "broken": broken, "p_value": p_value}
