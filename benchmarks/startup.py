"""Measure how long commands take that do nothing yet but start: help and lists, each in a process of its own.

python benchmarks/startup.py [--rounds 10]
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from peftkit.bench.envelope import result_of
from peftkit.bench.result import Run, write_result

HERE = Path(__file__).parent
START = ("--version", "--help", "recipes")


def main() -> None:
    """Run all commands round by round, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "startup")
    options = parser.parse_args()
    runs = [turn("python", ["-c", "pass"], number + 1) for number in range(options.rounds)]
    for words in START:
        for number in range(options.rounds):
            runs.append(turn("peftkit", ["-m", "peftkit", *words.split()], number + 1))
        print(f"peftkit {words}: {runs[-1].measures['seconds']:.2f} s", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    command = f"python benchmarks/startup.py --rounds {options.rounds}"
    summary = "Seconds from the key to the prompt; `pass` is Python itself."
    write_result(result_of("start-up", "startup", command, runs, summary=summary), options.out)


def turn(who: str, words: list[str], number: int) -> Run:
    """Run a command once."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    case = words[-1] if who == "python" else " ".join(["peftkit", *words[2:]])
    if done.returncode:
        return Run(case=case, contestant=who, round=number, status="failed", reason=done.stderr.strip()[-200:])
    return Run(case=case, contestant=who, round=number, measures={"seconds": seconds})


if __name__ == "__main__":
    main()
