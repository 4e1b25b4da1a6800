"""Every file and every row has one outcome: refused with a sentence, set aside with a reason, cut, or kept."""

from collections import Counter

import pytest

from .bad_rows import CASES, prove
from .fuzzed_rows import ROWS, read_file


def test_there_are_enough_of_them():
    assert len(CASES) >= 80


@pytest.mark.parametrize("name", CASES)
def test_a_file_has_its_outcome(name, tiny_model, tmp_path):
    prove(CASES[name], tiny_model, tmp_path)


@pytest.mark.parametrize(
    ("first", "files", "rows"), [(0, 12, 200), pytest.param(0, 400, ROWS, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_rows_of_chance_are_counted(first, files, rows, tiny_model, tmp_path):
    seen: Counter[str] = Counter()
    for seed in range(first, first + files):
        seen.update(read_file(seed, tmp_path, model=tiny_model, rows=rows))
    assert seen["tried"] == files * rows
    assert seen["files refused"] < files / 2
    assert seen["kept"] > seen["tried"] / 4
    assert seen["rejected"] > seen["tried"] / 100
