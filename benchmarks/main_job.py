"""Run the README's first command with three seeds, each in a process of its own, and keep what it reached.

python benchmarks/main_job.py [--seeds 0 1 2]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
KEPT = (
    "seed",
    "before",
    "after",
    "difference",
    "metrics",
    "mcnemar",
    "time",
    "memory",
    "tokens_per_second",
    "tokens",
    "train",
    "adapter",
)


def main() -> None:
    """Run each seed, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "main-job-cpu.json")
    options = parser.parse_args()
    runs = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as scratch:
            words = ["run", "sentiment", f"train.seed={seed}", "--json", "--out", f"{scratch}/run"]
            done = subprocess.run(
                [sys.executable, "-m", "peftkit", *words], capture_output=True, text=True, check=False
            )
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        runs.append(json.loads(done.stdout))
        accuracy = runs[-1]["after"]["accuracy"]
        print(
            f"seed {seed}: {accuracy['value']:.3f} on {accuracy['n']} rows, {runs[-1]['time']['total']:.0f} s",
            flush=True,
        )
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "peftkit run sentiment train.seed=SEED",
        "machine": runs[0]["machine"],
        "versions": runs[0]["versions"],
        "model": runs[0]["model"],
        "quantization": runs[0]["quantization"],
        "runs": [{name: run[name] for name in KEPT} for run in runs],
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
