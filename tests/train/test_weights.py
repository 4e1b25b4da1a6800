"""How much each row counts: its own weight times that of its label."""

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from peftkit.config import RunConfig
from peftkit.data.examples import Example
from peftkit.errors import ConfigError
from peftkit.train.weights import positive_weights, row_weights

LABELS = ("spam", "news", "other")
EXPECTED = ("spam", "news", "news", "other", "news", "other")


def configuration(multi_label=False, **train):
    task = {"kind": "classification", "labels": LABELS, "multi_label": multi_label}
    return RunConfig(recipe="sentiment", task=task, train=train)


def rows(expected=EXPECTED, weight=1.0, targets=None):
    targets = targets or [None] * len(expected)
    return [
        Example(f"row {number}", {}, label, [1], [2], False, target=target, weight=weight)
        for number, (label, target) in enumerate(zip(expected, targets, strict=True))
    ]


def test_a_row_has_its_own_weight():
    assert row_weights(rows(weight=2.5), configuration()) == [2.5] * 6


def test_the_weight_of_a_label_multiplies_that_of_its_rows():
    found = row_weights(rows(weight=2.0), configuration(class_weights={"spam": 3, "news": 0.5}))
    assert found == [6.0, 1.0, 1.0, 2.0, 1.0, 2.0]


def test_classes_are_balanced_as_scikit_learn_does():
    found = row_weights(rows(), configuration(balance_classes=True))
    labels = np.unique(EXPECTED)
    by_label = dict(zip(labels, compute_class_weight("balanced", classes=labels, y=EXPECTED), strict=True))
    assert found == pytest.approx([by_label[label] for label in EXPECTED])


def test_an_unknown_label_is_named():
    with pytest.raises(ConfigError, match=r"train\.class_weights\.spm: .*there are: spam, news, other"):
        row_weights(rows(), configuration(class_weights={"spm": 3}))


def test_of_several_labels_each_is_weighed_where_it_is_right():
    targets = [(1.0, 0.0, 0.0), (1.0, 1.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)]
    some = rows(("spam", "spam,news", "news", "spam"), targets=targets)
    assert row_weights(some, configuration(True, class_weights={"spam": 3})) == [1.0] * 4
    assert positive_weights(some, configuration(True, class_weights={"spam": 3})) == [3, 1.0, 1.0]
    assert positive_weights(some, configuration(True)) == [1.0, 1.0, 1.0]
    # one row without against three with; two against two; no row has the last
    assert positive_weights(some, configuration(True, balance_classes=True)) == [1 / 3, 1.0, 1.0]
