"""The benchmark of the forecast runs: on small models, and as a rehearsal of what it does on a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest

from peftkit.bench.result import read_result

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "forecast.py"


@pytest.mark.parametrize("words", [["--first", "2"], ["--cuda", "--rehearse", "--first", "3"]])
def test_the_benchmark_writes_what_it_measured_beside_the_forecast(words, tmp_path) -> None:
    out = tmp_path / "forecast"
    command = [sys.executable, str(SCRIPT), *words, "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    runs = read_result(out).runs
    assert len(runs) == int(words[-1])
    for one in runs:
        forecast, measured = one.measures["forecast_memory"], one.measures["peak_allocated"]
        assert forecast == pytest.approx(measured, rel=0.05)
        assert one.measures["error"] == pytest.approx(forecast / measured - 1, abs=1e-4)
