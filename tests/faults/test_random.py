"""Kills and signals at random instants of a whole run, from its first line to its report.

The full form writes what it saw to benchmarks/results/faults.json:

    PEFTKIT_RECORD=1 python -m pytest -m slow -n0 tests/faults/test_random.py
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from peftkit import machine
from peftkit.checkpoint.folders import damage

from .children import assert_same, in_a_child, start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks and kills")

INTERVAL = 3  # steps between saves
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "faults.json"


@pytest.fixture(scope="module")
def seconds(alone, tmp_path_factory):
    """How long a run takes here."""
    begun = time.monotonic()
    assert in_a_child(["run", "sentiment", *alone[0], "--out", tmp_path_factory.mktemp("timed") / "run"]) == 0
    return time.monotonic() - begun


def record(**seen):
    """Keep what was seen, if that was asked for."""
    if not os.environ.get("PEFTKIT_RECORD"):
        return
    held = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    about = {"machine": machine.describe(), "versions": machine.versions()}
    RESULTS.write_text(json.dumps({**held, **seen, **about}, indent=2) + "\n")


def sent(argv, number, after) -> int:
    """Start a run, send it a signal after some seconds, and return how it ended."""
    child = start(argv)
    time.sleep(after)
    os.kill(child, number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def steps_left(run: Path) -> tuple[int, int | None, list[str]]:
    """The last step in the log, the newest checkpoint that is whole, and those that are not."""
    log = run / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    checkpoints = {int(one.name.split("-")[1]): damage(one) for one in (run / "checkpoints").glob("checkpoint-*")}
    whole = [step for step, wrong in checkpoints.items() if wrong is None]
    return len(lines), max(whole, default=None), [wrong for wrong in checkpoints.values() if wrong]


@pytest.mark.parametrize("kills", [6, pytest.param(500, marks=pytest.mark.slow)])
def test_kills_at_random_instants(kills, alone, tmp_path, seconds):
    """A checkpoint that is whole is there after each; at most one interval is lost; what was finished is the same."""
    words, wanted = alone
    drawn = random.Random(kills)
    killed = finished = trained = 0
    most_lost = 0
    while killed < kills:
        run = tmp_path / f"run-{finished}"
        argv = ["run", "sentiment", *words, "--out", run, "--resume"]
        while not (run / "summary.json").exists() and killed < kills:
            ended = sent(argv, signal.SIGKILL, drawn.uniform(0, 1.2 * seconds))
            assert ended in (0, -signal.SIGKILL)
            killed += ended != 0
            logged, newest, damaged = steps_left(run)
            assert damaged == []
            if logged:
                trained += 1
                assert newest is not None
                most_lost = max(most_lost, logged - newest)
        assert in_a_child(argv) == 0
        assert_same(run, wanted)
        finished += 1
    assert most_lost <= INTERVAL
    record(kills={"killed": killed, "in_training_or_later": trained, "runs": finished, "most_steps_lost": most_lost})


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_signals_at_random_instants(times, alone, tmp_path, seconds):
    """Each leaves with its code, and what it leaves goes on to the same end."""
    words, wanted = alone
    drawn = random.Random(times)
    codes = {}
    for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"):
        number = getattr(signal, name)
        for turn in range(times):
            run = tmp_path / f"{name}-{turn}"
            argv = ["run", "sentiment", *words, "--out", run, "--resume", "--quiet"]
            ended = sent(argv, number, drawn.uniform(0.2, seconds))
            # Before the command listens, the system's own handling ends the process, and a shell sees the same code.
            assert ended in (0, 128 + number, -number), name
            codes[str(ended)] = codes.get(str(ended), 0) + 1
            if run.exists():
                logged, newest, damaged = steps_left(run)
                assert damaged == []
                assert not logged or logged == newest or ended == -number
            assert in_a_child(argv) == 0
            assert_same(run, wanted)
    record(signals={"sent": 4 * times, "codes": codes})
