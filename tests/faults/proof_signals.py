"""Signals at random instants of a whole run, in the middle of a save, and while the command starts."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .children import assert_same, in_a_child, left_by, sent
from .points import IN_A_SAVE, nth
from .proof_kills import seconds
from .rows import Case
from .world import INTERVAL, alone

SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
TIMES, STARTS, TWICE = 20, 3, 3


def cases(full: bool) -> Iterator[Case]:
    """Give each signal at random instants, at points of a save, while the command starts, and twice in a row."""
    for turn, name in enumerate(SIGNALS):
        points = list(IN_A_SAVE) if full else list(IN_A_SAVE)[turn * 2 : turn * 2 + 1]
        for number in range(TIMES if full else 1):
            yield Case(f"{name} {number}", partial(a_signal, name, number))
        for point in points:
            yield Case(f"{name} {point}", partial(a_signal_in_a_save, name, point))
        for number in range(TWICE if full else 0):
            yield Case(f"{name} twice {number}", partial(a_signal_twice, name, number))
        for number in range(STARTS if full else 0):
            yield Case(f"{name} at the start {number}", partial(a_signal_at_the_start, name, number))


def a_signal(name: str, seed: int, folder: Path) -> dict[str, int]:
    """Send a run a signal at a random instant, and go on with what it leaves."""
    number = getattr(signal, name)
    run = folder / "run"
    argv = argv_of(run)
    drawn = random.Random(f"{name} {seed}")
    ended = sent(argv, number, drawn.uniform(0, seconds()))
    if ended == -number:  # it did not listen yet, or not any more
        assert not run.exists() or (run / "summary.json").exists()
    else:
        assert ended in (0, 128 + number), ended
    logged, whole, damaged = left_by(run)
    assert damaged == []
    assert not logged or whole[-1] == logged, (logged, whole)
    ends_as_the_one_alone(run, argv)
    return {f"{name} exit {ended}": 1, "after a step": bool(logged) and ended != 0}


def a_signal_in_a_save(name: str, point: str, folder: Path) -> dict[str, int]:
    """Send a run a signal at a point of its second save: the save is finished, and is the last one."""
    number = getattr(signal, name)
    run = folder / "run"
    argv = argv_of(run)
    at = 1 if "oldest" in point or "prun" in point else 2
    ended = in_a_child(argv, lambda: IN_A_SAVE[point](nth(at, number)))
    assert ended == 128 + number, ended
    logged, whole, damaged = left_by(run)
    assert (damaged, whole[-1]) == ([], logged)
    ends_as_the_one_alone(run, argv)
    return {f"{name} exit {ended}": 1, "in a save": 1}


def a_signal_twice(name: str, seed: int, folder: Path) -> dict[str, int]:
    """Send a second signal a moment after the first: the process ends at once, and what was saved is whole."""
    number = getattr(signal, name)
    run = folder / "run"
    argv = argv_of(run)
    drawn = random.Random(f"{name} twice {seed}")
    ended = sent(argv, number, drawn.uniform(0.4, 0.9) * seconds(), again=drawn.uniform(0, 0.02))
    assert ended in (0, -number, 128 + number), ended
    logged, whole, damaged = left_by(run)
    assert damaged == []
    assert not logged or logged - whole[-1] <= INTERVAL
    ends_as_the_one_alone(run, argv)
    return {f"{name} twice exit {ended}": 1}


def a_signal_at_the_start(name: str, seed: int, folder: Path) -> dict[str, int]:
    """Send a signal to a command that is about to import what it needs: it leaves with the code, and without a word."""
    number = getattr(signal, name)
    run = folder / "run"
    drawn = random.Random(f"{name} at the start {seed}")
    command = [sys.executable, "-m", "peftkit", *map(str, argv_of(run))]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(drawn.uniform(0.05, 4))
    child.send_signal(number)
    said = child.communicate()[1]
    assert child.returncode in (128 + number, -number), (child.returncode, said)
    assert "Traceback" not in said, said
    ends_as_the_one_alone(run, argv_of(run))
    return {f"{name} at the start exit {child.returncode}": 1}


def argv_of(run: Path) -> list[object]:
    """Return the command that starts a run or goes on with it."""
    return ["run", "sentiment", *alone()[0], "--out", run, "--resume", "--quiet"]


def ends_as_the_one_alone(run: Path, argv: list[object]) -> None:
    assert in_a_child(argv) == 0
    assert_same(run, alone()[1])
