"""Kills at named points: before, in and after each part of a save, in a line of the log, at start and end."""

import json
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .children import assert_same, in_a_child, left_by
from .points import IN_A_SAVE, at_events, in_the_middle_of_a_line_of_the_log, nth
from .rows import Case
from .world import alone

KILLS = 10
START, LOG = "while the run begins to write", "in the middle of a line of the log"
END = "while adapter, answers and summary are written"
POINTS = (*IN_A_SAVE, LOG, START, END)
QUICK = ("in the middle of the tensors", "in the middle of pruning", LOG, START, END)


def cases(full: bool) -> Iterator[Case]:
    """Give ten kills at each point; in the short form one at some of them."""
    for point in POINTS if full else QUICK:
        for number in range(1, KILLS + 1) if full else [3]:
            yield Case(f"{point} {number}", partial(a_kill, point, number))


def a_kill(point: str, number: int, folder: Path) -> dict[str, int]:
    """Kill a run that saves every step when it comes to a point for the n-th time, and go on with it."""
    words, wanted = alone(save_steps=1)
    run = folder / "run"
    argv = ["run", "sentiment", *words, "--out", run, "--resume", "--quiet"]
    act = nth(number + (point in IN_A_SAVE and "prun" not in point), signal.SIGKILL)
    assert in_a_child(argv, lambda: place(point, run)(act)) == -signal.SIGKILL
    logged, whole, damaged = left_by(run)
    assert damaged == []
    if logged:
        assert len(whole) >= min(2, logged)  # as many as before the save
        assert logged - whole[-1] <= 1
    assert in_a_child(argv) == 0
    assert_same(run, wanted)
    went_on = json.loads((run / "summary.json").read_text()).get("went_on_after_step")
    assert (went_on or 0) == (whole[-1] if whole else 0)
    return {point: 1, "checkpoint there": bool(whole), "steps lost": logged - (went_on or 0)}


def place(point: str, run: Path):
    """Give the function that puts an action to a point of a run."""
    if point == LOG:
        return in_the_middle_of_a_line_of_the_log
    if point == START:
        return at_events(run, but="\0")
    if point == END:
        return after_the_last_save(at_events(run, but="checkpoint-"))
    return IN_A_SAVE[point]


def after_the_last_save(point):
    """Let a point count only once all steps are taken."""

    def later(act):
        from peftkit.evaluate import answers  # noqa: F401 - what follows is imported before it is counted
        from peftkit.train.checkpointed import CheckpointedTrainer

        original = CheckpointedTrainer.train

        def then(self, *arguments, **named):
            given = original(self, *arguments, **named)
            point(act)
            return given

        CheckpointedTrainer.train = then

    return later
