"""One callback that measures every contestant alike: time, tokens, memory and loss of each step."""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from peftkit import machine
from peftkit.bench.flops import shape_of
from peftkit.bench.job import Job
from peftkit.data.examples import IGNORED

_HELD_OUT_BATCH = 8
"""Rows of one pass while held-out rows are judged."""


@dataclass
class _Step:
    """What passed through the model in one step, and when it was done."""

    end: float
    loss: float | None = None
    slots: int = 0
    lengths: list[torch.Tensor] = field(default_factory=list)
    trained: list[torch.Tensor] = field(default_factory=list)


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Watches a transformers `Trainer`: give it as a callback, and call `watch` with the trainer before it trains.

    Args:
        job: What is trained.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.trainer: Any = None
        self.steps = [_Step(0.0)]  # the first stands for the time before the first step
        self.recomputed = 0
        self._peak_before = 0

    def watch(self, trainer: Any) -> None:
        """Stand before each forward and backward pass, to count what goes in."""
        self.trainer = trainer
        trainer.training_step = self._counted(trainer.training_step)

    def _counted(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def run(model: Any, inputs: dict[str, torch.Tensor], *more: Any, **named: Any) -> Any:
            now = self.steps[-1]
            now.slots += inputs["input_ids"].numel()
            now.lengths.append(_lengths(inputs))
            now.trained.append((inputs["labels"][:, 1:] != IGNORED).sum())
            return step(model, inputs, *more, **named)

        return run

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin a step; the clock of the first one starts here."""
        if len(self.steps) == 1:
            self.steps[0].end = time.perf_counter()
        self.steps.append(_Step(0.0))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note when a step was done; after the warm-up, forget the peak of memory."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.steps[-1].end = time.perf_counter()
        if len(self.steps) == 2:
            self.recomputed = _recomputing_layers(kwargs["model"])
        if len(self.steps) - 1 == self.job.warmup_steps:
            self._forget_peak()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep a step's loss."""
        if logs and "loss" in logs:
            self.steps[-1].loss = float(logs["loss"])

    def result(self) -> dict[str, Any]:
        """Return what was measured: `measures`, and `detail` of each step; call it when training is done.

        Raises:
            ValueError: Fewer steps were taken than the job has.
        """
        if len(self.steps) - 1 != self.job.steps:
            raise ValueError(f"{len(self.steps) - 1} steps were taken, and {self.job.steps} were asked for")
        peak, reserved, whole = self._peaks()
        begin = self.steps[self.job.warmup_steps].end
        ends = [one.end for one in self.steps]
        seconds = [end - before for before, end in itertools.pairwise(ends)]
        timed, counted = seconds[self.job.warmup_steps :], self.steps[self.job.warmup_steps + 1 :]
        lengths = [int(length) for one in counted for several in one.lengths for length in several.tolist() if length]
        tokens, slots = sum(lengths), sum(one.slots for one in counted)
        trained = sum(int(number) for one in counted for number in one.trained)
        squares = sum(length**2 for length in lengths)
        took = ends[-1] - begin
        losses = [one.loss for one in self.steps[1:] if one.loss is not None]
        model = self.trainer.model
        return {
            "measures": {
                "tokens_per_second": tokens / took,
                "trained_tokens_per_second": trained / took,
                "padding_share": 1 - tokens / slots,
                **_spread(timed),
                "peak_allocated": peak,
                "peak_reserved": reserved,
                "peak_rss": None if reserved else peak,
                "peak_whole": whole,
                "final_loss": statistics.mean(losses[-max(1, len(losses) // 4) :]) if losses else None,
                "held_out_loss": self._held_out_loss(model),
                **_arithmetic(model, tokens, trained, squares, self.recomputed, took),
            },
            "detail": {
                "tokens": tokens,
                "trained_tokens": trained,
                "seconds": [round(one, 4) for one in seconds],
                "losses": [round(one, 5) for one in losses],
                "recomputed_layers": self.recomputed,
                "attn_implementation": str(model.config._attn_implementation),
                "dtypes": sorted({str(one.dtype).removeprefix("torch.") for one in model.parameters()}),
                "trained_parameters": sum(one.numel() for one in model.parameters() if one.requires_grad),
            },
        }

    def _forget_peak(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            return
        self._peak_before = machine.peak_resident()
        if sys.platform == "linux":
            with suppress(OSError):  # some containers forbid it; the peak is then that of the whole process
                Path("/proc/self/clear_refs").write_text("5")

    def _peaks(self) -> tuple[int | None, int | None, int]:
        """Return the peaks after the warm-up, of what is used and of what is reserved, and of the whole process."""
        resident = machine.peak_resident()
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), resident
        return resident, None, max(resident, self._peak_before)

    def _held_out_loss(self, model: Any) -> float | None:
        """Return the mean loss of a trained token in rows that were not trained on, in nats."""
        total = count = 0.0
        rows = sorted(zip(self.job.held_out_ids, self.job.held_out_labels, strict=True), key=lambda row: len(row[0]))
        model.eval()
        for begin in range(0, len(rows), _HELD_OUT_BATCH):
            ids, labels = zip(*rows[begin : begin + _HELD_OUT_BATCH], strict=True)
            targets = _padded(labels, IGNORED)[:, 1:].to(model.device)
            batch = {"input_ids": _padded(ids, 0), "attention_mask": _padded([[1] * len(one) for one in ids], 0)}
            with torch.no_grad(), self.trainer.compute_loss_context_manager():
                logits = model(**{name: one.to(model.device) for name, one in batch.items()}, use_cache=False).logits
            kept = targets != IGNORED
            loss = torch.nn.functional.cross_entropy(logits[:, :-1][kept].float(), targets[kept], reduction="sum")
            total, count = total + float(loss), count + float(kept.sum())
        return total / count if count else None


def _padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def _lengths(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the tokens of each text of a batch; packed texts begin where positions begin again."""
    mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
    if mask is not None:
        return mask.sum(1)
    rows, width = inputs["input_ids"].shape
    if positions is None:
        return torch.full((rows,), width)
    starts = (positions.flatten() == 0).nonzero().flatten()
    return torch.diff(starts, append=starts.new_tensor([rows * width]))


def _recomputing_layers(model: torch.nn.Module) -> int:
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)]
    return sum(bool(one.gradient_checkpointing) for one in layers)


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        f"step_p{share}": ordered[min(len(ordered) - 1, round(share / 100 * (len(ordered) - 1)))]
        for share in (20, 50, 80)
    }


def _arithmetic(
    model: Any, tokens: int, trained: int, squares: int, recomputed: int, seconds: float
) -> dict[str, float | None]:
    """Return the rate of what the formula needs, and of that with what was computed again."""
    shape = shape_of(model.get_base_model())
    needed = shape.needed(tokens, trained, squares)
    again = shape.again(tokens, squares, min(recomputed, shape.layers))
    return {
        "model_flops": needed,
        "model_flops_per_second": needed / seconds,
        "hardware_flops_per_second": (needed + again) / seconds,
    }
