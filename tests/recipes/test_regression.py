"""The ratings of the snippets, as the file has them."""

import pytest

from .embedded import rows_of


def test_the_rows_are_all_snippets_with_their_ratings() -> None:
    rows, used = rows_of("regression")
    assert len(rows) == len(used) == 10_605
    assert used[2] == {"text": "Effective but too tepid biopic", "score": "-0.6"}
    scores = [float(row["score"]) for row in used]
    assert (min(scores), max(scores)) == pytest.approx((-3.875, 3.94117647059))
    assert sum(scores) / len(scores) == pytest.approx(0.00483, abs=1e-5)
