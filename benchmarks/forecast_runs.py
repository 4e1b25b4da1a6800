"""Hold what a run forecasts at its start against what it then took: seconds of a step, and memory of the process.

python benchmarks/forecast_runs.py [--steps 8] [--rounds 2]

Each run is a process of its own, on a copy of the cache that knows of no earlier run. In the second round the forecasts
are calibrated by the runs of the first.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from peftkit.bench.envelope import result_of
from peftkit.bench.result import Run, write_result
from peftkit.model.assets import cache_folder

HERE = Path(__file__).parent
CASES = (
    ("sentiment", ()),
    ("sentiment", ("model.quantization=none",)),
    ("sentiment", ("--preset", "encoder")),
    ("summarization", ()),
    ("sentiment", ("train.gradient_checkpointing=true",)),
    ("sentiment", ("model.quantization=int8",)),
    ("sentiment", ("model.dtype=float32",)),
)
"""Recipes and what is set otherwise than they have it."""

SHORT = ("evaluate.max_rows=8", "evaluate.bootstrap_samples=50")


def main() -> None:
    """Run every case, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cases", type=int, nargs="+", default=range(len(CASES)), help="numbers of some cases only")
    parser.add_argument("--words", nargs="*", default=(), help="further settings of every run")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "forecast-runs")
    options = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        cache = own_cache(Path(scratch))
        measure_machine(cache)
        for number in range(options.rounds):
            for place in options.cases:
                recipe, words = CASES[place][0], (*CASES[place][1], *options.words)
                given = (*words, *SHORT, f"train.max_steps={options.steps}")
                measures = run(recipe, given, cache, Path(scratch) / f"run-{number}-{place}")
                runs.append(
                    Run(case=" ".join((recipe, *words)), contestant="peftkit", round=number + 1, measures=measures)
                )
                print(runs[-1].model_dump_json(), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    command = " ".join(("python benchmarks/forecast_runs.py", *sys.argv[1:]))
    summary = "Whole short runs beside what they forecast at their start; from the second round on they know the first."
    write_result(result_of("forecast", "forecast-runs", command, runs, summary=summary), options.out)


def own_cache(scratch: Path) -> Path:
    """Make a cache with the fetched models and data, and nothing that earlier runs left."""
    cache = scratch / "cache"
    cache.mkdir()
    for name in ("archives", "models"):
        (cache / name).symlink_to(cache_folder() / name)
    return cache


def measure_machine(cache: Path) -> None:
    """Let the doctor measure this machine for the forecasts."""
    peftkit(["doctor", "--json"], cache)


def run(recipe: str, words: tuple[str, ...], cache: Path, out: Path) -> dict[str, Any]:
    """Run one case, and return its forecast beside what it took."""
    summary = peftkit(["run", recipe, *words, "--json", "--out", str(out)], cache)
    forecast = json.loads((out / "forecast.json").read_text())
    step = forecast["time"]["seconds_per_step"]
    seconds = summary["forecast"]["measured_seconds_per_step"]
    need, peak = forecast["memory"]["total"], summary["memory"]["peak_rss"]
    return {
        "step": seconds,
        "forecast_step": step["middle"],
        "forecast_step_low": step["low"],
        "forecast_step_high": step["high"],
        "peak_rss": peak,
        "forecast_memory": need,
        "error": round(need / peak - 1, 4),
    }


def peftkit(words: list[str], cache: Path) -> dict[str, Any]:
    """Run one command in a process of its own, and return its JSON."""
    command = [sys.executable, "-m", "peftkit", *words]
    environment = {**os.environ, "PEFTKIT_CACHE": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
