"""Time `peftkit plan` on large models: each in a process of its own, from its start to its end, and its memory.

python benchmarks/plan_speed.py [--rounds 3]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from peftkit.bench.envelope import result_of
from peftkit.bench.result import Run, write_result

HERE = Path(__file__).parent
CASES = (
    ("meta-llama/Llama-3.1-8B", "24GB", ()),
    ("Qwen/Qwen3-32B", "24GB", ()),
    ("meta-llama/Llama-3.3-70B", "48GB", ()),
    ("meta-llama/Llama-3.3-70B", "80GB", ("train.gradient_checkpointing=true",)),
)
"""Model, card, and what else is set; where it does not fit, many changes are tried."""


def main() -> None:
    """Plan each case, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--first", type=int, help="so many cases only")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "plan-speed")
    options = parser.parse_args()
    runs = []
    for number in range(options.rounds):
        for case in CASES[: options.first]:
            runs.append(plan(*case, number + 1))
            print(runs[-1].model_dump_json(), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    command = f"python benchmarks/plan_speed.py --rounds {options.rounds}"
    summary = "Plans of large models, from the start of the process to its end, without a network."
    write_result(result_of("planning", "plan-speed", command, runs, summary=summary), options.out)


def plan(model: str, card: str, words: tuple[str, ...], number: int) -> Run:
    """Plan a run of the recipe `instruct`."""
    command = [sys.executable, "-m", "peftkit", "plan", "instruct", f"model.path={model}", *words, "--gpu", card]
    with tempfile.TemporaryDirectory() as home:  # nothing of the hub is there, and nothing can be fetched
        offline = {**os.environ, "HF_HOME": home, "HF_HUB_OFFLINE": "1"}
        begun = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=offline) as child:
            peak = peak_of(child)
            said = child.communicate()
        seconds = time.perf_counter() - begun
    case = " ".join((model, "on", card, *words))
    if child.returncode not in (0, 11):
        return Run(case=case, contestant="peftkit", round=number, status="failed", reason=said[1].strip()[-200:])
    measures = {"seconds": seconds, "peak_rss": peak, "fits": int(child.returncode == 0)}
    return Run(case=case, contestant="peftkit", round=number, measures=measures)


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
