"""The benchmark of the forecast runs: on small models, and as a rehearsal of what it does on a GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "forecast.py"


@pytest.mark.parametrize("words", [["--first", "2"], ["--cuda", "--rehearse", "--first", "3"]])
def test_the_benchmark_writes_what_it_measured_beside_the_forecast(words, tmp_path) -> None:
    out = tmp_path / "result.json"
    command = [sys.executable, str(SCRIPT), *words, "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    result = json.loads(out.read_text())
    assert len(result["cases"]) == int(words[-1])
    for case in result["cases"]:
        assert case["forecast"] == pytest.approx(case["measured"], rel=0.05)
        assert case["error"] == pytest.approx(case["forecast"] / case["measured"] - 1, abs=1e-4)
