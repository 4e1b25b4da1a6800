"""Runs in child processes that are killed or stopped, and what they leave."""

import json
import os
import signal
import sys
from pathlib import Path

WORDS = (
    "train.max_steps=12",
    "train.save_steps=3",
    "adapter.lora_dropout=0.1",
    "adapter.r=4",
    "model.quantization=none",
    "model.dtype=float32",
    "train.gradient_accumulation_steps=1",
    "evaluate.max_rows=4",
    "evaluate.bootstrap_samples=5",
)
"""On top of the words of `small`: twelve steps, saved after 3, 6, 9 and 12."""


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
        from peftkit.cli import main

        main()
        code = 0
    except SystemExit as left:
        code = left.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


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


def kill_at_event(number: int, within: Path) -> None:
    """Kill this process at its n-th call that opens, renames, makes or removes something in a folder."""
    seen = 0
    kinds = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.chmod")

    def hook(event, arguments):
        nonlocal seen
        if event in kinds and str(within) in str(arguments):
            seen += 1
            if seen == number:
                kill()

    sys.addaudithook(hook)


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
