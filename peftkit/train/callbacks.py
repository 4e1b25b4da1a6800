"""What is seen and kept while training: a line of `metrics.jsonl` per logged step, and the progress on the screen."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from peftkit import machine
from peftkit.rundir import append_lines, write_lines
from peftkit.train.spikes import Spikes

Metrics = dict[str, Any]


class MetricsCallback(TrainerCallback):  # type: ignore[misc]
    """Writes `metrics.jsonl`, tells `on_step` about every logged step, and `warn` about what is wrong with one.

    Each line has step, epoch, loss, learning_rate, grad_norm, token_accuracy (of models that write), tokens (read since
    the start, without padding), seconds (since the start, without the time that a stopped run stood still),
    tokens_per_second (since the line before) and memory (resident bytes now, or the most that was allocated on the
    accelerator, beside `reserved`, what torch holds of it now). A step that was not finite has its rows and the cause
    under `not_finite`; one whose loss stands out has `spike`; the first one after memory ran out has what was done then
    under `out_of_memory`.

    Args:
        path: Of `metrics.jsonl`.
        on_step: Told of each line, and of the steps of the run.
        warn: Told of what is wrong with a step.
        retries: What was done when memory ran out, each with the `step` that the run went on after.
    """

    def __init__(
        self,
        path: Path,
        on_step: Callable[[Metrics, int], None] = lambda line, total: None,
        warn: Callable[[str], None] = lambda text: None,
        retries: Sequence[Metrics] = (),
    ) -> None:
        self.path = path
        self.on_step = on_step
        self.warn = warn
        self._retries = retries
        self._unwritten: list[Metrics] = []
        self._started = 0.0
        self._begin([])

    def go_on_after(self, step: int) -> None:
        """Drop the lines of steps after one, which are taken again, and a last line that was torn."""
        lines = [line for line in _whole_lines(self.path) if line["step"] <= step]
        write_lines(self.path, lines)
        self._begin(lines)

    def _begin(self, lines: Sequence[Metrics]) -> None:
        """Go on after the lines that are written already."""
        self.last: Metrics = lines[-1] if lines else {}
        self._earlier = self.last.get("seconds", 0.0)
        self._before = (self._earlier, self.last.get("tokens", 0))
        self._spikes = Spikes()
        self._first: Metrics = {}
        for line in lines:
            self._spikes.look(line["loss"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._started = time.perf_counter() - self._earlier

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Have the last step logged whatever the interval: the run's totals are those of the last line."""
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep a step's line; the summary that the trainer logs at the end is not one."""
        if logs is None or "loss" not in logs:
            return
        seconds = time.perf_counter() - self._started
        tokens = int(logs.get("num_tokens", state.num_input_tokens_seen))  # TRL's count, or transformers'
        elapsed, counted = seconds - self._before[0], tokens - self._before[1]
        self._before = (seconds, tokens)
        peak = machine.peak_cuda()
        line: Metrics = {
            "step": state.global_step,
            "epoch": round(state.epoch or 0.0, 4),
            "loss": float(logs["loss"]),
            "learning_rate": float(logs["learning_rate"]),
            "grad_norm": float(logs.get("grad_norm", 0.0)),
            **({"token_accuracy": float(logs["mean_token_accuracy"])} if "mean_token_accuracy" in logs else {}),
            "tokens": tokens,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(counted / elapsed, 1) if elapsed > 0 else 0.0,
            "memory": peak[0] if peak else machine.resident(),
            **({"reserved": machine.reserved_cuda()} if peak else {}),
        }
        if "not_finite" in logs:
            line["step"] = logs.get("step") or line["step"]  # named where the step is not taken
            line["not_finite"] = logs["not_finite"]
        if self._spikes.look(line["loss"]):
            line["spike"] = True
            self.warn(f"the loss jumped to {line['loss']:.3g} at step {line['step']}; it was {self._spikes.usual:.3g}")
        met = [one for one in self._retries if self.last.get("step", 0) <= one["step"] < line["step"]]
        if met:
            line["out_of_memory"] = met
        unusable = [name for name in ("loss", "grad_norm", "learning_rate") if not math.isfinite(line[name])]
        self._write({**line, **{name: str(line[name]) for name in unusable}})
        self._first = self._first or line
        self.last = {**line, **{name: self.last.get(name, 0.0) for name in unusable}}
        self.on_step(line, state.max_steps)

    def seconds_per_step(self, saving: float) -> float:
        """Return how long a step took, on average of those after the first line: libraries warm up before it.

        Args:
            saving: Seconds in which checkpoints were written, which is no part of a step.
        """
        known = bool(self._first) and self._first["step"] < self.last["step"]  # not where all steps were taken before
        first = self._first if known else {"step": 0, "seconds": 0.0}
        seconds = float(self.last["seconds"] - first["seconds"] - saving)
        return max(0.0, seconds) / max(1, int(self.last["step"] - first["step"]))

    def _write(self, line: Metrics) -> None:
        """Add a line to the file; where the disk is full, keep it until there is room."""
        self._unwritten.append(line)
        try:
            append_lines(self.path, self._unwritten)
        except OSError as error:
            if len(self._unwritten) == 1:
                self.warn(f"'{self.path}' cannot be written: {error.strerror}; the training goes on")
        else:
            self._unwritten.clear()


def _whole_lines(path: Path) -> Iterator[Metrics]:
    """Give the lines of a file of metrics; a crash can have torn the last one."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return
