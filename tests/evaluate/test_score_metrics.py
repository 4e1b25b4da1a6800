"""Metrics of scores against scikit-learn and scipy."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, mean_squared_error

from peftkit.evaluate.answers import Answer
from peftkit.evaluate.compare import compare
from peftkit.evaluate.metric import Judged
from peftkit.evaluate.metrics import find_metrics

NAMES = ("mse", "mae", "pearson", "spearman")


def judged(expected, given):
    return Judged([str(value) for value in expected], [Answer(value=float(value)) for value in given])


def values(expected, given):
    sides = [judged(expected, given)] * 2
    found = compare(*sides, find_metrics(NAMES), samples=50)
    return {name: found["after"][name]["value"] for name in NAMES}


@pytest.mark.parametrize("offset", [0, 1e6])
def test_they_are_those_of_scikit_learn_and_scipy(offset):
    draw = np.random.default_rng(3)
    expected = draw.normal(size=80).round(1) + offset  # rounded: ranks have ties
    given = expected + draw.normal(size=80)
    found = values(expected, given)
    assert found["mse"] == pytest.approx(mean_squared_error(expected, given), rel=1e-6)
    assert found["mae"] == pytest.approx(mean_absolute_error(expected, given), rel=1e-6)
    assert found["pearson"] == pytest.approx(pearsonr(expected, given)[0], abs=1e-9)
    assert found["spearman"] == pytest.approx(spearmanr(expected, given)[0], abs=1e-9)


def test_a_constant_prediction_has_no_correlation():
    found = values([1.0, 2.0, 3.0, 4.0], [2.5] * 4)
    assert (found["pearson"], found["spearman"]) == (0.0, 0.0)
    assert found["mse"] == pytest.approx(1.25)


def test_an_error_that_falls_is_a_difference_below_zero():
    expected = [float(number % 7) for number in range(60)]
    found = compare(
        judged(expected, [3.0] * 60),
        judged(expected, [value + 0.1 for value in expected]),
        find_metrics(NAMES),
        samples=200,
    )
    assert found["difference"]["mse"]["high"] < 0
    assert found["difference"]["pearson"]["low"] > 0
    assert found["metrics"]["mse"] == {"name": "Mean squared error", "percent": False, "better": "lower"}
    assert "mcnemar" not in found
    assert "per_label" not in found


def test_pearsons_interval_is_the_bootstraps():
    """Each resampling's correlation from sums is the correlation of the resampled rows."""
    draw = np.random.default_rng(0)
    expected = draw.normal(size=40)
    given = expected + draw.normal(size=40)
    found = compare(judged(expected, given), judged(expected, given), find_metrics(["pearson"]), samples=300)
    rows = np.random.default_rng(0).integers(0, 40, size=(300, 40))
    by_hand = [pearsonr(expected[one], given[one])[0] for one in rows]
    low, high = np.percentile(by_hand, [2.5, 97.5])
    assert (found["after"]["pearson"]["low"], found["after"]["pearson"]["high"]) == pytest.approx((low, high), abs=1e-9)
