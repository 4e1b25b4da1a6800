"""Run recipes from end to end, each in a process of its own, and keep what each reached.

python benchmarks/suite.py [NAME ...]      # all of them without a name; one at a time, on an idle machine
"""

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from conversations import write_conversations

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "suite"
JOBS = {
    "sentiment": ["sentiment"],
    "sentiment-encoder": ["sentiment", "--preset", "encoder"],
    "classification": ["classification"],
    "classification-encoder": ["classification", "--preset", "encoder"],
    "regression": ["regression"],
    "summarization": ["summarization"],
    "summarization-cord19": ["summarization", "data.path={cord19}"],
    "translation": ["translation"],
    "extraction": ["extraction"],
    "completion": ["completion"],
    "instruct": ["instruct", "data.path={conversations}"],
}
"""The words of each run; `{cord19}` and `{conversations}` stand for files."""
KEPT = (
    "recipe",
    "preset",
    "model",
    "quantization",
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
    "machine",
    "versions",
)


def main() -> None:
    """Run the jobs, and write a result file for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(JOBS))
    parser.add_argument("--cord19", type=Path, help="JSON lines with the columns abstract and title")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--keep", type=Path, help="folder in which the runs' own folders are kept")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or JOBS:
        if name not in JOBS:
            parser.error(f"there is no job '{name}'; there are: {', '.join(JOBS)}")
        if "{cord19}" in "".join(JOBS[name]) and options.cord19 is None:
            print(f"{name}: left out, it needs --cord19 FILE", flush=True)
            continue
        result = run(name, options)
        (options.out / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
        key, value = next(iter(result["after"].items()))
        before, change = result["before"][key]["value"], result["difference"][key]
        print(
            f"{name}: {key} {before:.4g} -> {value['value']:.4g} (difference {change['low']:+.4g} to "
            f"{change['high']:+.4g}), {result['time']['total']:.0f} s, {result['memory']['peak_rss'] / 1e9:.2f} GB",
            flush=True,
        )


def run(name: str, options: argparse.Namespace) -> dict[str, object]:
    """Run one job, and return what is kept of its summary."""
    with tempfile.TemporaryDirectory() as scratch:
        files = {"cord19": options.cord19, "conversations": Path(scratch) / "conversations.jsonl"}
        if "{conversations}" in "".join(JOBS[name]):
            write_conversations(files["conversations"])
        words = [word.format(**files) for word in JOBS[name]]
        folder = (options.keep or Path(scratch)) / name
        command = [sys.executable, "-m", "peftkit", "run", *words, "--json", "--out", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
        summary = json.loads(done.stdout)
        rows = json.loads((folder / "data.json").read_text())
    names = {"cord19": "abstract-title.train.jsonl", "conversations": "conversations.jsonl"}
    shown = [word.format(**names) for word in JOBS[name]]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"peftkit run {' '.join(shown)}",
        "data": rows["source"]["name"],
        "rows": {split: rows["splits"][split]["rows"] for split in ("train", "test")},
        **{key: summary[key] for key in KEPT if key in summary},
    }


if __name__ == "__main__":
    main()
