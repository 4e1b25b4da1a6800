"""A short form of each row; the full one is run and written down by `python benchmarks/faults.py`."""

import sys

import pytest

from .rows import ROWS

CASES = {f"{name}: {case.name}": case for name, row in ROWS.items() for case in row.cases(full=False)}


@pytest.mark.skipif(sys.platform != "linux", reason="forks, kills and mounts")
@pytest.mark.parametrize("name", CASES)
def test_row(name, tmp_path):
    CASES[name].prove(tmp_path)
