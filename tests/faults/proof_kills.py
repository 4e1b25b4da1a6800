"""Kills at random instants of a whole run, from its first line to its report."""

import functools
import random
import signal
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .children import assert_same, in_a_child, left_by, processor_time, sent
from .rows import Case
from .world import INTERVAL, alone

KILLS, AT_ONCE = 500, 10


def cases(full: bool) -> Iterator[Case]:
    """Give all the kills, some in a row; in the short form a few."""
    for number in range(KILLS // AT_ONCE if full else 1):
        yield Case(f"kills {number}", partial(kills_in_a_row, number, AT_ONCE if full else 4))


@functools.cache
def seconds() -> float:
    """Return the processor time of a run."""
    with tempfile.TemporaryDirectory() as folder:
        return processor_time(["run", "sentiment", *alone()[0], "--out", Path(folder) / "run", "--quiet"])


def kills_in_a_row(seed: int, kills: int, folder: Path) -> dict[str, int]:
    """Kill a run again and again; after its end begin another one, until there were enough kills."""
    words, wanted = alone()
    drawn = random.Random(seed)
    counts = {
        "tried": kills,
        "runs": 0,
        "killed before training": 0,
        "killed while saving": 0,
        "killed after training": 0,
    }
    killed = 0
    while killed < kills:
        run = folder / f"run-{counts['runs']}"
        argv = ["run", "sentiment", *words, "--out", run, "--resume", "--quiet"]
        before: list[int] = []
        while killed < kills:
            ended = sent(argv, signal.SIGKILL, drawn.uniform(0, 1.1 * seconds()))
            assert ended in (0, -signal.SIGKILL), ended
            if ended == 0:
                break
            killed += 1
            logged, whole, damaged = left_by(run)
            assert damaged == []
            assert len(whole) >= min(len(before), 2)
            assert not before or whole[-1] >= before[-1]
            assert not logged or logged - whole[-1] <= INTERVAL
            counts["killed before training"] += not whole
            counts["killed while saving"] += bool(list(run.glob("checkpoints/.checkpoint-*")))
            counts["killed after training"] += (run / "adapter").exists()
            before = whole
        assert in_a_child(argv) == 0
        assert_same(run, wanted)
        counts["runs"] += 1
    return counts
