"""Runs in child processes that are killed or stopped, and what they leave."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from peftkit.checkpoint.folders import damage

for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:  # as a shell in the background leaves them
        signal.signal(_number, _usual)

ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT


def in_a_child(argv, prepare=lambda: None) -> int:
    """Run peftkit's command line in a fork of this process; return its code, or minus the signal that killed it."""
    child = start(argv, prepare)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def start(argv, prepare=lambda: None) -> int:
    """Begin it, and return the number of the process."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        prepare()
        sys.argv = ["peftkit", *map(str, argv)]
        from peftkit.__main__ import main

        main()
        code = 0
    except SystemExit as left:
        code = left.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def sent(argv, number: int, after: float, again: float | None = None) -> int:
    """Start a run, send it a signal when it has used so much processor time, and return how it ended.

    Processor time, since a machine that is busy with other things would move the moment to an earlier place of the run.

    Args:
        argv: Words after `peftkit`.
        number: The signal's.
        after: Seconds.
        again: Seconds after which the signal is sent once more.
    """
    child = start(argv)
    for moment in (after,) if again is None else (after, after + again):
        _wait_for(child, moment)
        os.kill(child, number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _wait_for(child: int, moment: float) -> None:
    clock = ~child << 3 | 2  # the number that Linux gives to the clock of a process
    while (left := moment - time.clock_gettime(clock)) > 0 and not os.waitid(os.P_PID, child, ENDED):
        time.sleep(max(0.0002, 0.8 * left))


def processor_time(argv) -> float:
    """Run a command to its end, and return the seconds of processor time that it took."""
    _, status, used = os.wait4(start(argv), 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return used.ru_utime + used.ru_stime


def left_by(run: Path) -> tuple[int, list[int], list[str]]:
    """The whole lines of a run's log, the steps of its checkpoints that are whole, and what is wrong with others."""
    log = run / "metrics.jsonl"
    logged = log.read_text().count("\n") if log.exists() else 0
    found = {int(one.name.split("-")[1]): damage(one) for one in run.glob("checkpoints/checkpoint-*")}
    return logged, sorted(step for step, wrong in found.items() if not wrong), [one for one in found.values() if one]


def at_step(step, act):
    """Do something when a step is written to the log, which is before it is saved."""
    from peftkit.train.callbacks import MetricsCallback

    original = MetricsCallback.on_log

    def noting(self, args, state, control, logs=None, **kwargs):
        original(self, args, state, control, logs=logs, **kwargs)
        if "loss" in logs and state.global_step == step:
            act()

    MetricsCallback.on_log = noting


def kill(number=signal.SIGKILL):
    """Send this process a signal."""
    os.kill(os.getpid(), number)


def adapter_of(run: Path) -> dict[str, bytes]:
    """The files of a run's adapter."""
    return {file.name: file.read_bytes() for file in sorted((run / "adapter").iterdir())}


def steps_of(run: Path) -> list[dict]:
    """The lines of the log, without what time and memory were then."""
    timed = ("seconds", "tokens_per_second", "memory")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def assert_same(run: Path, other: Path) -> None:
    """Two runs left the same adapter, log and answers, and nothing that does not belong there."""
    assert adapter_of(run) == adapter_of(other)
    assert steps_of(run) == steps_of(other)
    assert (run / "predictions.jsonl").read_bytes() == (other / "predictions.jsonl").read_bytes()
    stray = [file.name for folder in (run, run / "checkpoints", run / "adapter") for file in folder.glob(".*")]
    assert stray == []
