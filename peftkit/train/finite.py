"""No step is taken on a loss or gradient that is not finite: it is stopped before the weights change, and explained.

A step in which nothing is trained is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils import get_total_norm
from transformers import Trainer

from peftkit.errors import NotFiniteError
from peftkit.train.rows import places

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peftkit.config import RunConfig
    from peftkit.data.examples import Example

_MOST_ROWS = 8  # of a batch that are named


class GuardedTrainer(Trainer):  # type: ignore[misc]
    """Looks at loss and gradients before they are clipped, which would spread one bad value to all."""

    config: RunConfig
    examples: Sequence[Example] = ()
    rows_of_step: Sequence[Sequence[int]] = ()
    skipped_steps = 0
    step_is_skipped = False
    """Whether the step that is being taken leaves the weights as they are."""
    _batches: Sequence[dict[str, Any]] = ()
    _items: Any = None
    _bad: dict[str, Any] | None = None
    _finite: torch.Tensor | None = None

    def watch_batches(self, batches: Sequence[dict[str, Any]], items: Any) -> None:
        """Keep the batches of a step until it is taken, to look for what made it go wrong.

        Args:
            batches: Of this optimizer step.
            items: What their losses are divided by.
        """
        self._batches, self._items = [dict(one) for one in batches], items
        self._finite = None
        self.step_is_skipped = False

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Train on a batch, and note whether its loss is finite; nothing waits for the GPU here."""
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        finite = loss.isfinite()
        self._finite = finite if self._finite is None else self._finite & finite
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        self._require_finite()
        return super()._clip_grad_norm(model)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        if grad_norm is None:  # nothing was clipped
            self._require_finite()
        return super()._get_grad_norm(model, grad_norm=grad_norm)

    def _require_finite(self) -> None:
        """Stop before a bad step, or leave it out.

        Raises:
            NotFiniteError: Loss, gradients or learning rate are not finite, and no such step may be left out any more.
        """
        gradients = [one.grad for one in self.model.parameters() if one.grad is not None]
        norm = get_total_norm(gradients)
        # float16's gradients are scaled up: where they overflow, the scaler leaves the step out and lowers its scale.
        scaled = getattr(self.accelerator, "scaler", None) is not None
        finite = self._finite if scaled else self._finite & norm.isfinite()  # type: ignore[operator]
        rate = self._rate()
        if (finite is None or bool(finite)) and math.isfinite(rate):
            if self._items is not None and not self._items > 0:
                self._leave_out()  # momentum alone would move the weights
            return
        step = self.state.global_step + 1
        rows = [number for batch in self.rows_of_step for number in batch]
        named = list(dict.fromkeys(places(self.train_dataset, rows[:_MOST_ROWS], self.examples)))
        cause = self._cause()
        self._bad = {"rows": named, "cause": cause}
        more = f" and {len(rows) - _MOST_ROWS} more" if len(rows) > _MOST_ROWS else ""
        said = f"step {step} is not finite: {cause}; its rows are {', '.join(named)}{more}"
        train = self.config.train
        if train.on_nan == "skip" and self.skipped_steps < train.max_nan_steps:
            self.skipped_steps += 1
            self._leave_out()
            return
        losses = {"loss": float(self._tr_loss), "grad_norm": float(norm), "learning_rate": rate}
        self.log({**losses, "step": step})
        skipped = f" ({self.skipped_steps} steps were left out before)" if self.skipped_steps else ""
        raise NotFiniteError(
            f"{said}{skipped}; the weights are those before it; lower train.learning_rate, look at these rows, or take "
            "train.on_nan=skip"
        )

    def _rate(self) -> float:
        """Return the learning rate of this step; of several, the first that is not finite."""
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        return next((one for one in rates if not math.isfinite(one)), rates[0])

    def _leave_out(self) -> None:
        self.step_is_skipped = True
        self.accelerator.gradient_state._set_sync_gradients(False)  # accelerate's optimizer then takes no step

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Say in a step's line of the log what was not finite in it."""
        if self._bad is not None and "loss" in logs:
            logs = {**logs, "not_finite": self._bad}  # type: ignore[dict-item]
            self._bad = None
            self._tr_loss.zero_()  # the loop takes a sum from itself, and NaN stays
        super().log(logs, start_time)

    def _cause(self) -> str:
        """Say where the first value that is not finite comes from, by taking the step's batches again."""
        for name, value in self.model.named_parameters():
            if value.requires_grad and not bool(value.isfinite().all()):
                return f"the weight '{_short(name)}' is not finite already"
        if not math.isfinite(self._rate()):
            return f"the learning rate is {self._rate()}"
        for batch in self._batches:
            with _first_bad_module(self.model) as found:
                loss = self._loss_again(batch)
            if found:
                return f"the first layer whose output is not finite is '{_short(found[0])}'"
            if not bool(loss.isfinite()):
                return f"the loss is {loss.item()}, of layers whose outputs are finite"
        bad = [
            name
            for name, value in self.model.named_parameters()
            if value.grad is not None and not bool(value.grad.isfinite().all())
        ]
        if not bad:
            return "the norm of the gradient is too large for its dtype"
        return f"the loss is finite; the first gradient that is not is that of '{_short(bad[-1])}'"

    def _loss_again(self, batch: dict[str, Any]) -> torch.Tensor:
        """Compute a batch's loss once more, and leave random numbers and sums as they are."""
        sums = self.loop_state()
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad(), self.compute_loss_context_manager():
            loss: torch.Tensor = self.compute_loss(self.model, self._prepare_inputs(dict(batch)), False, self._items)
        self.set_loop_state(*sums)
        return loss


@contextmanager
def _first_bad_module(model: torch.nn.Module) -> Iterator[list[str]]:
    """Give a list that gets the names of modules without parts whose output is not finite, in the order they ran."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def look(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            if any(not bool(one.isfinite().all()) for one in _tensors(output)):
                found.append(name)

        return look

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _tensors(output: Any) -> Iterable[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output] if output.is_floating_point() else []
    return (one for part in output for one in _tensors(part)) if isinstance(output, tuple | list) else []


def _short(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".default", "")
