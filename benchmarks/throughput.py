"""Measure training throughput against TRL alone: same model, rows, token ids, batch and rank, in turn in one run.

python benchmarks/throughput.py [--rounds 3] [--steps 14]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from peftkit import machine
from peftkit.resolve import resolve
from peftkit.stages import prepare
from peftkit.ui import UI

HERE = Path(__file__).parent
CONTESTANTS = {
    "peftkit": ("peftkit_sft.py",),
    "TRL plain": ("trl_sft.py",),
    "TRL tuned": ("trl_sft.py", "--tuned"),
}


def main() -> None:
    """Run all contestants round by round, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "throughput-cpu.json")
    options = parser.parse_args()
    machine.quiet_libraries()
    runs: dict[str, list[dict[str, object]]] = {name: [] for name in CONTESTANTS}
    with tempfile.TemporaryDirectory() as scratch:
        job = Path(scratch) / "job.json"
        job.write_text(json.dumps(make_job(options.steps, scratch)))
        for number in range(options.rounds):
            for name, (script, *flags) in CONTESTANTS.items():
                result = measure(script, [str(job), *flags])
                runs[name].append(result)
                print(f"round {number + 1}  {name:10s} {result['tokens_per_second']:7.1f} tokens/s", flush=True)
    options.out.write_text(json.dumps(report(options, runs), indent=2) + "\n")
    print(options.out.read_text())


def make_job(steps: int, scratch: str) -> dict[str, object]:
    """Return the main job's model and rows, as token ids."""
    resolved = resolve("sentiment")
    config = resolved.config
    _, base, data = prepare(resolved, UI(quiet=True))
    batch = config.train.per_device_train_batch_size
    accumulation = config.train.gradient_accumulation_steps
    examples = data.train[: steps * batch * accumulation]
    return {
        "model": base.source.path,
        "dtype": machine.fast_dtype(),
        "output": scratch,
        "steps": steps,
        "batch": batch,
        "accumulation": accumulation,
        "learning_rate": config.train.learning_rate,
        "r": config.adapter.r,
        "lora_alpha": config.adapter.lora_alpha,
        "seed": 0,
        "input_ids": [example.prompt_ids + example.completion_ids for example in examples],
        "labels": [[-100] * len(example.prompt_ids) + example.completion_ids for example in examples],
    }


def measure(script: str, arguments: list[str]) -> dict[str, object]:
    """Run one contestant in a process of its own."""
    command = [sys.executable, str(HERE / "peers" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{script} failed:\n{done.stderr[-2000:]}")
    result: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def report(options: argparse.Namespace, runs: dict[str, list[dict[str, object]]]) -> dict[str, object]:
    """Return medians, and the ratio of each round to TRL."""

    def speeds(name: str) -> list[float]:
        return [float(str(run["tokens_per_second"])) for run in runs[name]]

    def ratios(name: str) -> dict[str, float]:
        pairs = [mine / other for mine, other in zip(speeds("peftkit"), speeds(name), strict=True)]
        return {"median": round(statistics.median(pairs), 2), "low": round(min(pairs), 2), "high": round(max(pairs), 2)}

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python benchmarks/throughput.py --rounds {options.rounds} --steps {options.steps}",
        "machine": machine.describe(),
        "versions": machine.versions(),
        "median_tokens_per_second": {name: statistics.median(speeds(name)) for name in runs},
        "ratio": {f"to {name}": ratios(name) for name in runs if name != "peftkit"},
        "runs": runs,
    }


if __name__ == "__main__":
    main()
