"""Kill a run on real data at random instants, go on each time, and compare it with one that was left alone.

python benchmarks/resume.py                               # twenty kills of `peftkit run sentiment`
python benchmarks/resume.py --kills 5 data.train_rows=96  # a short form
python benchmarks/resume.py --cost                        # what saving costs at the default interval; needs quiet

The instants are drawn from the whole life of the run that was left alone, and each kill waits for the same instant in
the life of the other one. They are counted in processor time after a step of the log, so that a machine that is busy
with other things does not move them.
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
from bisect import bisect_right
from pathlib import Path
from typing import Any

import psutil
from about import about

from peftkit.checkpoint.folders import damage

RESULT = Path(__file__).parent / "results" / "resume.json"
INTERVAL = 2  # steps between two saves
LOOK = 0.02  # seconds between two looks at a run


def main() -> None:
    """Run both, and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="settings of the run")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("--cost", action="store_true", help="measure what saving costs, and kill nothing")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        part = "cost_of_saving" if options.cost else "killed"
        seen = cost(Path(name), options.words) if options.cost else killed(Path(name), options)
    held = json.loads(options.out.read_text()) if options.out.exists() else {}
    held[part] = {**seen, **about()}
    options.out.write_text(json.dumps(held, indent=2) + "\n")
    print(json.dumps(seen))
    sys.exit(not seen.get("same_bytes", True))


def cost(folder: Path, words: list[str]) -> dict[str, Any]:
    """Run once as anybody would, and return what its saves took of its training time."""
    Life(folder / "alone", words).end()
    trained = json.loads((folder / "alone" / "summary.json").read_text())["train"]
    share = round(trained["saving_seconds"] / trained["seconds"], 5)
    return {"steps": trained["steps"], "training_seconds": trained["seconds"], "share": share}


def killed(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run alone, then with kills, and return what was seen; a run that ends before a kill is followed by another."""
    words = [f"train.save_steps={INTERVAL}", *options.words]
    begun = time.monotonic()
    alone = Life(folder / "alone", words)
    moments = alone.end()
    drawn = random.Random(options.seed)  # noqa: S311
    kills: list[dict[str, Any]] = []
    digests = []
    while len(kills) < options.kills:
        out = folder / f"killed-{len(digests)}"
        places = sorted(drawn.uniform(0, moments[-1]) for _ in range(options.kills - len(kills)))
        for place in places:
            seen = Life(out, words).kill_at(place, moments)
            if seen is None:  # it had come to its end before
                break
            kills.append(seen)
            print(json.dumps(seen), flush=True)
        Life(out, words).end()
        digests.append(digests_of(out / "adapter"))
    wanted = digests_of(folder / "alone" / "adapter")
    return {
        "run": " ".join(["peftkit run sentiment", *words]),
        "kills": len(kills),
        "same_bytes": all(one == wanted for one in digests),
        "runs": len(digests),
        "steps": len(moments) - 2,
        "adapter": wanted,
        "each": kills,
        "seconds": round(time.monotonic() - begun),
    }


class Life:
    """A run in a process of its own, from its start or from what is there."""

    def __init__(self, out: Path, words: list[str]) -> None:
        self.out = out
        self._log = out / "metrics.jsonl"
        self._stale = self._log.stat().st_ino if self._log.exists() else None
        command = [sys.executable, "-m", "peftkit", "run", "sentiment", *words]
        self._process = subprocess.Popen(
            [*command, "--out", str(out), "--resume", "--quiet"], stdout=subprocess.DEVNULL
        )
        self._watched = psutil.Process(self._process.pid)

    def end(self) -> list[float]:
        """Let it come to its end; return its processor time at its start, at each step of the log, and at its end."""
        moments = [0.0]
        spent = 0.0
        while self._process.poll() is None:
            spent = self._spent() or spent
            moments += [spent] * (self._logged() + 1 - len(moments))
            time.sleep(LOOK)
        if self._process.returncode:
            raise SystemExit(f"the run in '{self.out}' ended with {self._process.returncode}")
        return [*moments, spent]

    def kill_at(self, place: float, moments: list[float]) -> dict[str, Any] | None:
        """Kill it at a place in the life of another one, and return what it left; None where it ended before."""
        step = bisect_right(moments, place) - 1
        while self._logged() < step and self._process.poll() is None:
            time.sleep(LOOK)
        until = self._spent() + place - moments[step] if step else place
        while self._spent() < until and self._process.poll() is None:
            time.sleep(LOOK)
        self._process.send_signal(signal.SIGKILL)
        if self._process.wait() != -signal.SIGKILL:
            return None
        logged = len(self._log.read_text().splitlines()) if self._log.exists() else 0
        checkpoints = {int(one.name.split("-")[1]): damage(one) for one in self.out.glob("checkpoints/checkpoint-*")}
        whole = [step for step, wrong in checkpoints.items() if wrong is None]
        assert len(whole) == len(checkpoints), checkpoints
        assert not logged or logged - max(whole) <= INTERVAL, (logged, whole)
        return {
            "processor_seconds": round(place, 2),
            "step_logged": logged,
            "step_kept": max(whole, default=None),
            "adapter_written": (self.out / "adapter").exists(),
        }

    def _spent(self) -> float:
        """Return its processor time in seconds; 0 where it has ended."""
        try:
            times = self._watched.cpu_times()
        except psutil.Error:
            return 0.0
        return times.user + times.system

    def _logged(self) -> int:
        """Count the steps in the log; one that an earlier life left does not count until this one has taken it over."""
        try:
            with self._log.open("rb") as file:
                return 0 if self._log.stat().st_ino == self._stale else sum(1 for _ in file)
        except FileNotFoundError:
            return 0


def digests_of(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file of an adapter."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


if __name__ == "__main__":
    main()
