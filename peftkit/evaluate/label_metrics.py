"""Metrics of labels: one per row, or any number of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from peftkit.evaluate.metric import Judged, Metric, quotient, ratio

if TYPE_CHECKING:
    from peftkit.evaluate.answers import Answer
    from peftkit.evaluate.metric import Table

_KINDS = ("classification",)
Hit = Callable[["Answer", frozenset[str]], bool | None]


def expected_labels(expected: str, separator: str | None) -> frozenset[str]:
    """Return a row's expected labels."""
    if separator is None:
        return frozenset([expected])
    return frozenset(label.strip() for label in expected.split(separator) if label.strip())


def expected_sets(judged: Judged) -> list[frozenset[str]]:
    """Return each row's expected labels."""
    return [expected_labels(expected, judged.separator) for expected in judged.expected]


def _share(key: str, name: str, hit: Hit) -> Metric:
    """Share of the rows with a hit; None leaves a row out."""

    def statistics(judged: Judged) -> Table:
        hits = [hit(answer, expected) for answer, expected in zip(judged.answers, expected_sets(judged), strict=True)]
        return ratio([(0.0, 0.0) if one is None else (float(one), 1.0) for one in hits])

    return Metric(key, name, statistics, quotient, exact_share=True, kinds=_KINDS)


def label_counts(judged: Judged) -> Table:
    """Return, for each row and label, whether it was rightly given, wrongly given, and wrongly left out, [n, 3 L]."""
    counts = np.zeros((len(judged), 3, len(judged.labels)))
    place = {label: number for number, label in enumerate(judged.labels)}
    for row, (answer, expected) in enumerate(zip(judged.answers, expected_sets(judged), strict=True)):
        for label in answer.chosen | expected:
            kind = 0 if label in answer.chosen and label in expected else 1 if label in answer.chosen else 2
            counts[row, kind, place[label]] += 1
    return counts.reshape(len(judged), -1)


def _f1(totals: Table) -> Table:
    """F1 = 2 TP / (2 TP + FP + FN) of each label; a label that no row has or gets counts as 0."""
    right, wrong, missed = totals.reshape(3, -1)
    f1: Table = np.divide(2 * right, 2 * right + wrong + missed, out=np.zeros_like(right), where=right > 0)
    return f1


def _micro(totals: Table) -> float:
    right, wrong, missed = totals.reshape(3, -1).sum(axis=1)
    return float(2 * right / (2 * right + wrong + missed)) if right else 0.0


def label_table(judged: Judged) -> dict[str, dict[str, float | int]]:
    """Return precision, recall, F1 and number of expected rows of each label."""
    totals = label_counts(judged).sum(axis=0)
    right, wrong, missed = totals.reshape(3, -1)
    return {
        label: {
            "precision": float(hit / (hit + false)) if hit else 0.0,
            "recall": float(hit / (hit + lost)) if hit else 0.0,
            "f1": float(f1),
            "support": int(hit + lost),
        }
        for label, hit, false, lost, f1 in zip(judged.labels, right, wrong, missed, _f1(totals), strict=True)
    }


def correct(judged: Judged) -> list[bool]:
    """Return for each row whether exactly the expected labels were given."""
    return [a.chosen == expected for a, expected in zip(judged.answers, expected_sets(judged), strict=True)]


LABEL_METRICS: Sequence[Metric] = (
    _share("accuracy", "Accuracy", lambda answer, expected: answer.chosen == expected),
    Metric("macro_f1", "Macro-F1", label_counts, lambda totals: float(_f1(totals).mean()), kinds=_KINDS),
    Metric("micro_f1", "Micro-F1", label_counts, _micro, kinds=_KINDS),
    _share(
        "likelihood_accuracy",
        "Accuracy (by label likelihood)",
        lambda answer, expected: answer.likeliest in expected if answer.scores else None,
    ),
    _share("valid_answers", "Valid answers", lambda answer, expected: answer.valid),
)
