"""What changed between two models on the same rows, with its uncertainty.

Shares of rows carry Wilson's score interval; other metrics and every difference carry a percentile bootstrap over rows,
the same resampled rows for both models, so that the difference is a paired one (Efron & Tibshirani 1993, chapter 13).
Where every row changed alike, resampling would say that the difference of a share is certain; Tango's score interval
(Statistics in Medicine 17, 1998, 891-908) tells how little few rows prove.
McNemar's exact test compares the rows that only one of the two got right (McNemar 1947).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from peftkit.evaluate.label_metrics import correct, label_table
from peftkit.evaluate.metric import Judged, Metric

if TYPE_CHECKING:
    from peftkit.evaluate.metric import Table

Interval = dict[str, float | int | None]


def compare(
    before: Judged, after: Judged, metrics: Sequence[Metric], *, samples: int, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Judge two models on the same rows.

    Args:
        before: Answers of the base model.
        after: Answers of the adapted model, to the same rows.
        metrics: What judges them.
        samples: Resamplings behind an interval.
        seed: Seed of the resampling.

    Returns:
        `before`, `after` and `difference`, each metric as value, low, high (95%) and n; `metrics`, what each is called;
        for labels also `per_label`, and where a row has one label `mcnemar` with the rows that were fixed and broken
        and the two-sided p-value, and `majority`, what it is worth to give the most frequent label to every row.
    """
    n = len(before)
    counts = _resampled(n, samples, seed)
    sides = {"before": before, "after": after}
    result: dict[str, dict[str, Any]] = {"before": {}, "after": {}, "difference": {}, "metrics": {}}
    for metric in metrics:
        values: dict[str, float] = {}
        draws: dict[str, Table] = {}
        shares: list[Table] = []
        for which, judged in sides.items():
            statistics = metric.statistics(judged)
            values[which], draws[which] = _measure(metric, statistics, counts)
            if metric.exact_share and math.isfinite(values[which]):
                shares.append(statistics)
                hits, rows = statistics.sum(axis=0)
                result[which][metric.key] = _wilson(int(hits), int(rows))
            else:
                result[which][metric.key] = _percentiles(values[which], draws[which], n)
        difference = values["after"] - values["before"]
        change = _percentiles(difference, draws["after"] - draws["before"], n)
        if len(shares) == 2 and change["low"] == change["high"]:
            change |= _alike(difference, shares)
        result["difference"][metric.key] = change
        result["metrics"][metric.key] = metric.described(before)
    if before.labels:
        result["per_label"] = {which: label_table(judged) for which, judged in sides.items()}
        if before.separator is None:
            result["mcnemar"] = _mcnemar(before, after)
            result["majority"] = _majority(after)
    return result


def _majority(after: Judged) -> dict[str, Any]:
    """Return the most frequent label with its share of the rows, and the one that was given to all rows, if one was."""
    label, count = Counter(after.expected).most_common(1)[0]
    given = {answer.chosen for answer in after.answers}
    only = given.pop() if len(given) == 1 and count < len(after) else ()
    return {"label": label, "share": count / len(after), "given_to_all": next(iter(only), None)}


def compare_groups(
    before: Judged, after: Judged, groups: Sequence[str], metrics: Sequence[Metric], *, samples: int, seed: int = 0
) -> dict[str, Any]:
    """Judge each group of rows apart, and name the groups that are served worse than the other rows.

    A group is served worse by a metric if the 95% bootstrap interval of its difference to all other rows lies wholly on
    the bad side; with many groups and metrics some will do so by chance.

    Args:
        before: Answers of the base model.
        after: Answers of the adapted model.
        groups: Each row's group.
        metrics: What judges them; those without a better side name no group.
        samples: Resamplings behind an interval.
        seed: Seed of the resampling.

    Returns:
        `groups`, each with `n`, `before`, `after` and `difference` as in `compare`; and `worse`, with `before` and
        `after`, each a list of `{"group", "metric", "value", "low", "high"}`, the difference to the other rows.
    """
    found: dict[str, Any] = {"groups": {}, "worse": {"before": [], "after": []}}
    for group in sorted(set(groups)):
        inside = [place for place, one in enumerate(groups) if one == group]
        outside = [place for place, one in enumerate(groups) if one != group]
        compared = compare(before.rows(inside), after.rows(inside), metrics, samples=samples, seed=seed)
        found["groups"][group] = {"n": len(inside)} | {
            name: compared[name] for name in ("before", "after", "difference")
        }
        for which, judged in (("before", before), ("after", after)) if outside else ():
            for metric in metrics:
                gap = _gap(metric, judged.rows(inside), judged.rows(outside), samples, seed)
                if _is_bad(gap, metric):
                    found["worse"][which].append({"group": group, "metric": metric.key, **gap})
    return found


def _gap(metric: Metric, inside: Judged, outside: Judged, samples: int, seed: int) -> Interval:
    here = _measure(metric, metric.statistics(inside), _resampled(len(inside), samples, seed))
    there = _measure(metric, metric.statistics(outside), _resampled(len(outside), samples, seed + 1))
    return _percentiles(here[0] - there[0], here[1] - there[1], len(inside))


def _is_bad(gap: Interval, metric: Metric) -> bool:
    low, high = gap["low"], gap["high"]
    if low is None or high is None or metric.better == "neither":
        return False
    return high < 0 if metric.better == "higher" else low > 0


def _resampled(n: int, samples: int, seed: int) -> Table:
    """How often each row is drawn in each resampling, [samples, n]."""
    generator = np.random.default_rng(seed)
    return np.stack([np.bincount(generator.integers(0, n, size=n), minlength=n) for _ in range(samples)]).astype(float)


def _measure(metric: Metric, statistics: Table, counts: Table) -> tuple[float, Table]:
    """Return a metric's value, and its value in each resampling."""
    totals = counts @ statistics
    return metric.combine(statistics.sum(axis=0)), np.array([metric.combine(total) for total in totals])


def _wilson(hits: int, n: int) -> dict[str, float]:
    from scipy.stats import binomtest

    interval = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return {"value": hits / n, "low": float(interval.low), "high": float(interval.high), "n": n}


def _percentiles(value: float, draws: Table, n: int) -> Interval:
    """Return value and 95% interval; None where a metric is not defined on these rows."""
    defined = draws[np.isfinite(draws)]
    if not math.isfinite(value) or not len(defined):
        return {"value": None, "low": None, "high": None, "n": n}
    low, high = np.percentile(defined, [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high), "n": n}


def _alike(difference: float, shares: Sequence[Table]) -> Interval:
    """Return Tango's 95% interval of a paired difference of shares, or nothing where the rows did not change alike.

    Args:
        difference: -1, 0 or 1, as every row changed.
        shares: Hits and rows, [n, 2], before and after.
    """
    changes = (shares[1] - shares[0])[(shares[0] + shares[1])[:, 1] > 0]
    if len(np.unique(changes, axis=0)) != 1:
        return {}
    width = _wilson(0, len(changes))["high"]  # both are z^2 / (n + z^2) there
    return {"low": max(-1.0, difference - width), "high": min(1.0, difference + width)}


def _mcnemar(before: Judged, after: Judged) -> dict[str, float | int]:
    from scipy.stats import binomtest

    was, now = np.array(correct(before)), np.array(correct(after))
    fixed, broken = int((~was & now).sum()), int((was & ~now).sum())
    p_value = float(binomtest(fixed, fixed + broken).pvalue) if fixed + broken else 1.0
    return {"fixed": fixed, "broken": broken, "p_value": p_value}
