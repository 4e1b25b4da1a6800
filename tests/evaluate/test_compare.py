"""Metrics against scikit-learn, published values, and values worked out by hand."""

import random

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from peftkit.evaluate.answers import Answer
from peftkit.evaluate.compare import compare
from peftkit.evaluate.metric import Judged
from peftkit.evaluate.metrics import find_metrics

LABELS = ("a", "b", "c")
ALL = ("accuracy", "macro_f1", "likelihood_accuracy", "valid_answers")


def judged(expected, answered, labels=LABELS):
    """Judge answers given as labels, None for an answer that is no label; scores prefer label `a`."""
    answers = [Answer("", label, {name: -place for place, name in enumerate(labels)}) for label in answered]
    return Judged(expected, answers, labels=labels)


def compared(expected, before, after, metrics=ALL, **settings):
    return compare(
        judged(expected, before), judged(expected, after), find_metrics(metrics), **({"samples": 200} | settings)
    )


@pytest.mark.parametrize("seed", range(20))
def test_macro_f1_is_that_of_scikit_learn(seed):
    draw = random.Random(seed)
    expected = draw.choices(LABELS[: 1 + seed % 3], k=1 + 3 * seed)
    before, after = (draw.choices((*LABELS, None), k=len(expected)) for _ in range(2))
    result = compared(expected, before, after, samples=5)
    for which, answered in (("before", before), ("after", after)):
        given = [label or "?" for label in answered]
        theirs = f1_score(expected, given, average="macro", labels=list(LABELS), zero_division=0)
        assert result[which]["macro_f1"]["value"] == pytest.approx(theirs, abs=1e-12)
        assert result[which]["accuracy"]["value"] == pytest.approx(accuracy_score(expected, given), abs=1e-12)
        valid = sum(label is not None for label in answered) / len(expected)
        assert result[which]["valid_answers"]["value"] == pytest.approx(valid)
        assert result[which]["likelihood_accuracy"]["value"] == pytest.approx(expected.count("a") / len(expected))


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (
            81,
            263,
            0.2553,
            0.3662,
        ),  # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_shares_have_wilsons_interval(hits, n, low, high):
    answered = ["a"] * hits + [None] * (n - hits)
    found = compared(["a"] * n, answered, answered, metrics=("accuracy",), samples=2)["after"]["accuracy"]
    assert found["value"] == hits / n
    assert (round(found["low"], 4), round(found["high"], 4)) == (low, high)
    assert found["n"] == n


@pytest.fixture
def rows():
    draw = random.Random(1)
    expected = draw.choices(LABELS, k=90)
    before = [label if draw.random() < 0.5 else draw.choice((*LABELS, None)) for label in expected]
    after = [label if draw.random() < 0.8 else draw.choice((*LABELS, None)) for label in expected]
    return expected, before, after


def test_the_interval_of_a_difference_is_deterministic_and_holds_its_value(rows):
    first, again, other = compared(*rows), compared(*rows), compared(*rows, seed=1)
    assert first == again
    assert first["difference"]["macro_f1"] != other["difference"]["macro_f1"]
    for name in ALL:
        found = first["difference"][name]
        assert found["value"] == pytest.approx(first["after"][name]["value"] - first["before"][name]["value"])
        assert found["low"] <= found["value"] <= found["high"]
        assert found["n"] == 90
    assert 0 < first["difference"]["accuracy"]["low"] < first["difference"]["accuracy"]["high"] < 1


def test_the_difference_is_paired(rows):
    """Resampling the same rows for both models leaves the spread of the rows that changed."""
    expected, before, after = rows
    changed = np.array([(b == e) != (a == e) for e, b, a in zip(expected, before, after, strict=True)])
    gain = np.array([(a == e) * 1.0 - (b == e) for e, b, a in zip(expected, before, after, strict=True)])
    found = compared(expected, before, after, metrics=("accuracy",), samples=4000)["difference"]["accuracy"]
    width = 2 * 1.96 * gain.std() / len(gain) ** 0.5
    assert changed.any()
    assert found["high"] - found["low"] == pytest.approx(width, rel=0.1)


def test_equal_models_differ_by_nothing(rows):
    expected, before, _ = rows
    result = compared(expected, before, before)
    assert [result["difference"]["macro_f1"][key] for key in ("value", "low", "high")] == [0, 0, 0]
    for share in (result["difference"][name] for name in ALL if name != "macro_f1"):
        assert [share["value"], share["low"], round(share["high"], 4)] == [0, -share["high"], 0.0409]
    assert result["mcnemar"] == {"fixed": 0, "broken": 0, "p_value": 1.0}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("a" * 20, "a" * 20, (0, -0.1611, 0.1611)),
        ("ab" * 10, "ab" * 10, (0, -0.1611, 0.1611)),
        ("b" * 20, "a" * 20, (1, 0.8389, 1)),
        ("a" * 20, "b" * 20, (-1, -1, -0.8389)),
        ("aaaa", "aaaa", (0, -0.4899, 0.4899)),
    ],
)
def test_few_rows_that_change_alike_prove_little(before, after, expected):
    """Tango's interval: the difference within z^2 / (n + z^2), the end of Wilson's interval of no hit among n rows."""
    found = compared(["a"] * len(before), before, after, metrics=("accuracy",))["difference"]["accuracy"]
    assert [round(found[key], 4) for key in ("value", "low", "high")] == list(expected)


@pytest.mark.parametrize(
    ("after", "given"), [("aaaa", "a"), ("bbbb", "b"), ("aaab", None), (["a", "a", "a", None], None)]
)
def test_the_most_frequent_label_and_the_one_that_all_rows_are_given(after, given):
    result = compared(list("aaab"), ["b"] * 4, list(after), samples=5)
    assert result["majority"] == {"label": "a", "share": 0.75, "given_to_all": given}


def test_one_label_for_rows_of_one_label_is_no_collapse():
    assert compared(["a", "a"], ["b", "b"], ["a", "a"], samples=5)["majority"]["given_to_all"] is None


def test_mcnemars_exact_test_by_hand():
    """Of 7 rows that changed, 6 were fixed: p = 2 * (C(7,0) + C(7,1)) / 2^7 = 0.125."""
    expected = ["a"] * 12
    before = [None] * 6 + ["a"] * 4 + ["b"] * 2
    after = ["a"] * 6 + ["b"] * 1 + ["a"] * 3 + ["c"] * 2
    result = compared(expected, before, after, samples=5)
    assert result["mcnemar"] == {"fixed": 6, "broken": 1, "p_value": pytest.approx(0.125)}
    assert result["difference"]["accuracy"]["value"] == pytest.approx(5 / 12)


def test_only_the_metrics_that_are_asked_for_are_given(rows):
    result = compared(*rows, metrics=("macro_f1",))
    assert [list(result[which]) for which in ("before", "after", "difference")] == [["macro_f1"]] * 3
    assert all(
        type(value) in (float, int) for which in ("before", "after") for value in result[which]["macro_f1"].values()
    )
