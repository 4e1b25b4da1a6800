"""What is seen and kept while training: a line of `metrics.jsonl` per logged step, and the progress on the screen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from peftkit import machine
from peftkit.errors import TrainingError
from peftkit.rundir import append_line

Metrics = dict[str, Any]


class MetricsCallback(TrainerCallback):  # type: ignore[misc]
    """Writes `metrics.jsonl`, tells `on_step` about every logged step, and stops at a loss that is not finite.

    Each line has step, epoch, loss, learning_rate, grad_norm, token_accuracy (of models that write), tokens (read since
    the start, without padding), seconds (since the start), tokens_per_second (since the line before) and memory
    (resident bytes now, or allocated on the accelerator).
    """

    def __init__(self, path: Path, on_step: Callable[[Metrics, int], None] = lambda line, total: None) -> None:
        self.path = path
        self.on_step = on_step
        self.last: Metrics = {}
        self._started = 0.0
        self._before = (0.0, 0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Have the last step logged whatever the interval: the run's totals are those of the last line."""
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
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
        }
        finite = math.isfinite(line["loss"]) and math.isfinite(line["grad_norm"])
        append_line(
            self.path, line if finite else {**line, "loss": str(line["loss"]), "grad_norm": str(line["grad_norm"])}
        )
        if not finite:
            raise TrainingError(
                f"the loss is {line['loss']} and the gradient's norm {line['grad_norm']} at step {state.global_step}; "
                "lower train.learning_rate, or look at the rows of this step"
            )
        self.last = line
        self.on_step(line, state.max_steps)
