"""Labels by name, several labels in a row, and groups of rows."""

import random

import pytest
from sklearn.metrics import f1_score, precision_recall_fscore_support

from peftkit.errors import ConfigError
from peftkit.evaluate.answers import Answer
from peftkit.evaluate.compare import compare, compare_groups
from peftkit.evaluate.label_metrics import label_table
from peftkit.evaluate.metric import Judged
from peftkit.evaluate.metrics import find_metrics

LABELS = ("a", "b", "c")


def several(seed, n=60):
    draw = random.Random(seed)

    def pick():
        return tuple(label for label in LABELS if draw.random() < 0.4)

    return [pick() for _ in range(n)], [pick() if draw.random() < 0.9 else None for _ in range(n)]


def judged_several(expected, given):
    answers = [Answer(labels=labels) for labels in given]
    return Judged([", ".join(labels) for labels in expected], answers, labels=LABELS, separator=",")


def indicator(rows):
    return [[int(label in (row or ())) for label in LABELS] for row in rows]


@pytest.mark.parametrize("seed", range(5))
def test_f1_over_several_labels_is_that_of_scikit_learn(seed):
    expected, given = several(seed)
    judged = judged_several(expected, given)
    found = compare(judged, judged, find_metrics(["macro_f1", "micro_f1", "accuracy", "valid_answers"]), samples=5)
    for average in ("macro", "micro"):
        theirs = f1_score(indicator(expected), indicator(given), average=average, zero_division=0)
        assert found["after"][f"{average}_f1"]["value"] == pytest.approx(theirs)
    same = sum(set(e) == set(g or ()) for e, g in zip(expected, given, strict=True)) / len(expected)
    assert found["after"]["accuracy"]["value"] == pytest.approx(same)
    assert found["after"]["valid_answers"]["value"] == sum(row is not None for row in given) / len(given)
    assert "mcnemar" not in found


def test_the_table_of_labels_is_that_of_scikit_learn():
    expected, given = several(7)
    precision, recall, f1, support = precision_recall_fscore_support(
        indicator(expected), indicator(given), zero_division=0
    )
    for place, (label, row) in enumerate(label_table(judged_several(expected, given)).items()):
        assert label == LABELS[place]
        assert row == {
            "precision": pytest.approx(precision[place]),
            "recall": pytest.approx(recall[place]),
            "f1": pytest.approx(f1[place]),
            "support": support[place],
        }


def single(expected, given):
    return Judged(expected, [Answer(label, label) for label in given], labels=LABELS)


def test_a_group_that_is_served_worse_is_named():
    expected = ["a", "b"] * 60
    groups = ["north"] * 80 + ["south"] * 40
    flipped = {"a": "b", "b": "a"}
    before = single(expected, [flipped[label] for label in expected])
    after = single(expected, expected[:80] + [flipped[label] for label in expected[80:110]] + expected[110:])
    found = compare_groups(before, after, groups, find_metrics(["accuracy", "macro_f1"]), samples=200)
    assert {group: one["n"] for group, one in found["groups"].items()} == {"north": 80, "south": 40}
    assert found["groups"]["south"]["after"]["accuracy"]["value"] == 0.25
    assert found["groups"]["north"]["difference"]["accuracy"]["value"] == 1.0
    assert found["worse"]["before"] == []
    assert [(one["group"], one["metric"]) for one in found["worse"]["after"]] == [
        ("south", "accuracy"),
        ("south", "macro_f1"),
    ]
    assert found["worse"]["after"][0]["value"] == pytest.approx(-0.75)


def test_one_group_alone_is_compared_with_nobody():
    judged = single(["a", "b"] * 5, ["a"] * 10)
    found = compare_groups(judged, judged, ["all"] * 10, find_metrics(["accuracy"]), samples=20)
    assert found["worse"] == {"before": [], "after": []}
    assert list(found["groups"]) == ["all"]


def test_an_unknown_metric_is_named():
    with pytest.raises(ConfigError, match="no metric 'accurracy'; there are: accuracy, macro_f1"):
        find_metrics(["accurracy"])
