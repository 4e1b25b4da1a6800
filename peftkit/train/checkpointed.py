"""A trainer that saves all that it needs to go on, and goes on from there bit for bit.

transformers' own saves are pickles that are written in place; what they lack is not missed when they are read. Here its
methods for saving and loading are replaced, and its loop is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer

from peftkit.adapter.adalora import allocator_state, set_allocator_state
from peftkit.adapter.attach import save_adapter
from peftkit.checkpoint.random_state import random_state
from peftkit.checkpoint.state import (
    State,
    optimizer_part,
    set_optimizer,
    set_random,
    set_weights,
    trained_weights,
)
from peftkit.errors import CheckpointError
from peftkit.train.rows import RowOrder

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from transformers import TrainerState

    from peftkit.checkpoint.random_state import Tensors
    from peftkit.train.saving import Saving

TRAINER_STATE = "trainer_state.json"
"""transformers reads a trainer's state from a file of this name."""
_DEFAULT = {"weights", "method", "optimizer", "scheduler", "scaler", "random", "epoch_random", "loop", "run"}


@dataclass(frozen=True)
class Point:
    """Where a training stands after a whole step, without what only an optimizer step changes.

    Attributes:
        state: Of the trainer: steps, epochs and tokens.
        random: Of all generators of random numbers.
        epoch_random: The same when the epoch began.
        loop: What the loop has summed up.
    """

    state: TrainerState
    random: tuple[Tensors, dict[str, Any]]
    epoch_random: tuple[Tensors, dict[str, Any]]
    loop: tuple[Tensors, dict[str, Any]]


class CheckpointedTrainer(Trainer):  # type: ignore[misc]
    """Saves and restores; `saving` says when and where."""

    saving: Saving
    rows_of_step: Sequence[Sequence[int]] = ()
    """Numbers of the rows in the data set that each batch of this step is made of; empty where that is not known."""
    _resumed: State | None = None
    _order: RowOrder | None = None
    _epoch_random: tuple[Tensors, dict[str, Any]] | None = None

    def loop_state(self) -> tuple[Tensors, dict[str, Any]]:
        """Return what the loop has summed up since the last line of the log."""
        total = torch.tensor(self._total_loss_scalar, dtype=torch.float64)  # as all sums, it may be NaN
        return {"loss": self._tr_loss.clone(), "total": total}, {"logged": self._globalstep_last_logged}

    def set_loop_state(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Put it back."""
        self._tr_loss = tensors["loss"].to(self.args.device, copy=True)
        self._total_loss_scalar = tensors["total"].item()
        self._globalstep_last_logged = values["logged"]

    def point(self) -> Point:
        """Return where the training stands now; call it between two steps."""
        # The log stands in metrics.jsonl, and would make each save longer than the one before.
        state = replace(self.state, log_history=[])
        now = random_state()
        return Point(state, now, self._epoch_random or now, self.loop_state())

    def state_to_save(self, point: Point) -> State:
        """Return all that is needed to go on from a point, with the weights and the optimizer as they are.

        Raises:
            ConfigError: The optimizer or the adapter's method keeps something that cannot be saved.
        """
        scaler = getattr(self.accelerator, "scaler", None)
        return State.of(
            {
                "weights": (dict(trained_weights(self.model, self.optimizer)), None),
                "method": allocator_state(self.model),
                "optimizer": optimizer_part(self.model, self.optimizer),
                "scheduler": ({}, self.lr_scheduler.state_dict()),
                "scaler": ({}, scaler.state_dict() if scaler is not None else None),
                "random": point.random,
                "epoch_random": point.epoch_random,
                "loop": point.loop,
                "run": ({}, {"identity": self.saving.identity}),
            }
        )

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of an epoch, and remember which rows they are made of."""
        loader: DataLoader[Any] = super().get_train_dataloader()
        self._order = RowOrder.watch(loader, self.args.seed)
        return loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Return the batches of an optimizer step, and what transformers counts in them."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.rows_of_step = self._order.take(len(batches)) if self._order is not None else ()
        return batches, count

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        """Save this step, once."""
        self.store_flos()
        self.save_point(self.point())

    def save_point(self, point: Point) -> None:
        """Save a point whose weights and optimizer are those of now, once."""
        self.saving.save(point.state.global_step, partial(self._fill, point))

    def _fill(self, point: Point, folder: Path) -> Mapping[str, str]:
        save_adapter(self.model, folder)
        point.state.save_to_json(str(folder / TRAINER_STATE))
        return self.state_to_save(point).write(folder)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Save when it is due, and after the last step; stop when the run was asked to."""
        if self.saving.is_due() or self.state.global_step >= self.state.max_steps:
            self.control.should_save = True
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if self.saving.stop.asked:  # before this, or while the step was written down
            self._save_checkpoint(self.model)
            self.control.should_training_stop = True
        self.saving.step_begins()

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        self.saving.begin()
        return super()._inner_training_loop(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Read a checkpoint that was checked, and put its weights in place.

        Raises:
            CheckpointError: It lacks something, or belongs to another run.
        """
        self._resumed = State.read(Path(resume_from_checkpoint))
        missing = _DEFAULT - self._resumed.values.keys()
        if missing:
            raise CheckpointError(f"the checkpoint lacks '{min(missing)}', which a run needs to go on")
        if self._resumed.part("run")[1]["identity"] != self.saving.identity:
            raise CheckpointError(f"'{resume_from_checkpoint}' is a checkpoint of another run; take its own back")
        set_weights(self.model, self._resumed.part("weights")[0])
        set_allocator_state(self.model, *self._resumed.part("method"))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Put back the states of optimizer and schedule, strictly."""
        if self._resumed is not None:
            set_optimizer(self.model, self.optimizer, self._resumed.part("optimizer"))
            self.lr_scheduler.load_state_dict(self._resumed.part("scheduler")[1])

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Put back the scale of float16's gradients."""
        saved = self._resumed.part("scaler")[1] if self._resumed is not None else None
        if saved is not None:
            self.accelerator.scaler.load_state_dict(saved)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Put all generators of random numbers where they were after the step; the loop asks at the right moment."""
        if self._resumed is not None:
            set_random(self._resumed.part("random"))

    def _run_epoch(self, *, epoch: int, **kwargs: Any) -> None:
        """Train one epoch; one that is taken up draws the order of its rows as it was drawn when it began."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        done = 0
        if self._resumed is not None:
            done = kwargs["steps_trained_in_current_epoch"]
            set_random(self._resumed.part("epoch_random" if done else "random"))
            self.set_loop_state(*self._resumed.part("loop"))
        self._epoch_random = random_state()
        if self._order is not None:
            self._order.begin_epoch(epoch, done)
        if self.state.global_step == 0:
            self._save_checkpoint(self.model)  # a run that is killed before its first save goes on from here
        super()._run_epoch(epoch=epoch, **kwargs)
        self._resumed = None
