"""Time `peftkit plan` on large models: each in a process of its own, from its start to its end, and its memory.

python benchmarks/plan_speed.py
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from peftkit import machine

HERE = Path(__file__).parent
CASES = (
    ("meta-llama/Llama-3.1-8B", "24GB", ()),
    ("Qwen/Qwen3-32B", "24GB", ()),
    ("meta-llama/Llama-3.3-70B", "48GB", ()),
    ("meta-llama/Llama-3.3-70B", "80GB", ("train.gradient_checkpointing=true",)),
)
"""Model, card, and what else is set: the first three do not fit as they are, so that many changes are tried."""


def main() -> None:
    """Plan each case, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "plan-speed-cpu.json")
    parser.add_argument("--first", type=int, help="so many cases only")
    options = parser.parse_args()
    rows = []
    for model, card, words in CASES[: options.first]:
        rows.append({"model": model, "card": card, "set": " ".join(words), **plan(model, card, words)})
        print(json.dumps(rows[-1]), flush=True)
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python benchmarks/plan_speed.py",
        "machine": machine.describe(),
        "versions": machine.versions(),
        "cases": rows,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")


def plan(model: str, card: str, words: tuple[str, ...]) -> dict[str, Any]:
    """Plan a run of the recipe `instruct` on its embedded rows."""
    command = [sys.executable, "-m", "peftkit", "plan", "instruct", f"model.path={model}", *words, "--gpu", card]
    with tempfile.TemporaryDirectory() as home:  # nothing of the hub is there, and nothing can be fetched
        offline = {**os.environ, "HF_HOME": home, "HF_HUB_OFFLINE": "1"}
        begun = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=offline) as child:
            peak = peak_of(child)
            said = child.communicate()
        seconds = time.perf_counter() - begun
    if child.returncode not in (0, 11):
        sys.exit(f"{' '.join(command)} failed:\n{said[1][-2000:]}")
    return {"fits": child.returncode == 0, "seconds": round(seconds, 2), "peak_rss": peak}


def peak_of(child: subprocess.Popen[str]) -> int:
    """Return the most memory that a process was seen to have until it ended."""
    peak, process = 0, psutil.Process(child.pid)
    while child.poll() is None:
        try:
            peak = max(peak, process.memory_info().rss)
        except psutil.Error:
            break
        time.sleep(0.02)
    return peak


if __name__ == "__main__":
    main()
