"""Kill a run on real data at random instants, go on each time, and compare it with one that was left alone.

python benchmarks/resume.py                              # twenty kills of `peftkit run sentiment`
python benchmarks/resume.py --kills 5 data.train_rows=96 # a short form
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from peftkit import machine
from peftkit.checkpoint.folders import damage

RESULT = Path(__file__).parent / "results" / "resume.json"


def main() -> None:
    """Run both, and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="settings of the run")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result = compare(Path(name), options)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: result[name] for name in ("same_bytes", "kills", "cost_of_saving")}))
    sys.exit(not result["same_bytes"])


def compare(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run alone, then with kills; return what was seen."""
    begun = time.monotonic()
    subprocess.run(command(folder / "alone", options.words), check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - begun
    alone = summary_of(folder / "alone")
    drawn = random.Random(options.seed)  # noqa: S311
    killed = folder / "killed"
    words = ["train.save_steps=5", *options.words]
    seen = [kill_once(killed, words, drawn.uniform(0, seconds)) for _ in range(options.kills)]
    subprocess.run(command(killed, words), check=True, stdout=subprocess.DEVNULL)
    # The passport and the card name the settings, and one run saves more often than the other.
    digests = [digests_of(one / "adapter", "adapter_*") for one in (folder / "alone", killed)]
    return {
        "command": ["peftkit", "run", "sentiment", *options.words],
        "same_bytes": digests[0] == digests[1],
        "adapter": digests[0],
        "kills": seen,
        "cost_of_saving": {
            "training_seconds": alone["train"]["seconds"],
            "saving_seconds": alone["train"]["saving_seconds"],
            "share": round(alone["train"]["saving_seconds"] / alone["train"]["seconds"], 5),
        },
        "steps": alone["train"]["steps"],
        "machine": machine.describe(),
        "versions": machine.versions(),
    }


def command(out: Path, words: list[str]) -> list[str]:
    """Return the command that starts a run, or goes on with it."""
    return [sys.executable, "-m", "peftkit", "run", "sentiment", *words, "--out", str(out), "--resume", "--quiet"]


def kill_once(out: Path, words: list[str], after: float) -> dict[str, Any]:
    """Let a run go on for so many seconds, kill it, and say what it left."""
    process = subprocess.Popen(command(out, words), stdout=subprocess.DEVNULL)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    code = process.wait()
    checkpoints = {int(one.name.split("-")[1]): damage(one) for one in (out / "checkpoints").glob("checkpoint-*")}
    lines = (out / "metrics.jsonl").read_text().splitlines() if (out / "metrics.jsonl").exists() else []
    whole = [step for step, wrong in checkpoints.items() if wrong is None]
    assert not lines or whole, "a run that began to train has a checkpoint that is whole"
    assert len(whole) == len(checkpoints), checkpoints
    newest = max(whole, default=None)
    return {"after_seconds": round(after, 2), "ended": code, "step_logged": len(lines), "step_kept": newest}


def summary_of(run: Path) -> dict[str, Any]:
    """Read what a run wrote down."""
    return dict(json.loads((run / "summary.json").read_text()))


def digests_of(folder: Path, names: str) -> dict[str, str]:
    """Return the sha256 of each file of such a name."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob(names))}


if __name__ == "__main__":
    main()
