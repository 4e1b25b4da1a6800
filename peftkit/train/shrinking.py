"""A trainer that meets the end of memory early, and goes on from its last whole step with smaller batches.

transformers' own search for a batch size begins at the first step again with weights that were trained already, and
changes how many rows a step has. Here the rows of every step stay the same.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers.integrations.neftune import deactivate_neftune

from peftkit.checkpoint.random_state import random_state, set_random_state
from peftkit.memory.exhausted import collect
from peftkit.memory.host import HostWatch
from peftkit.train.batches import optimizer_steps
from peftkit.train.checkpointed import CheckpointedTrainer, Point
from peftkit.train.optimizers import state_bytes
from peftkit.train.worst_batch import left_as_it_is, worst_rows

FEWEST_BATCHES = 20
"""Micro-batches of a run that is worth a look at the worst of them: with fewer, the run itself meets it soon."""
_SAME_ORDER = ("group_by_length", "random", "sequential")  # of strategies: go by the rows of a step, not of a batch


class ShrinkingTrainer(CheckpointedTrainer):
    """Looks at its worst batch, and can take smaller ones.

    Attributes:
        host: Watches main memory, where the model is on a processor.
        in_update: Whether weights or optimizer may be changed in part.
    """

    config: Any
    host: HostWatch | None = None
    in_update = False
    _point: Point | None = None
    _looks = False

    @property
    def micro_batch(self) -> tuple[int, int]:
        """Rows of a forward pass, and passes of an optimizer step."""
        return self.args.per_device_train_batch_size, self.args.gradient_accumulation_steps

    @property
    def is_long(self) -> bool:
        """Whether the run is so long that a look at its worst batch costs little of it."""
        rows, passes = self.micro_batch
        train = self.config.train.model_copy(
            update={"per_device_train_batch_size": rows, "gradient_accumulation_steps": passes}
        )
        return optimizer_steps(train, len(self.train_dataset)) * passes >= FEWEST_BATCHES

    @property
    def can_shrink(self) -> bool:
        """Whether smaller batches leave the rows of each step as they are, and this process decides alone."""
        args = self.args
        alone = args.world_size == 1 and args.n_gpu <= 1
        return alone and not args.dataloader_drop_last and args.train_sampling_strategy in _SAME_ORDER

    def take_batches(self, rows: int, passes: int) -> None:
        """Train with so many rows in a forward pass and so many passes in a step from the next `train` on."""
        self.args.per_device_train_batch_size = rows
        self.args.gradient_accumulation_steps = passes
        self._train_batch_size = self.args.train_batch_size

    def look_at_worst_batch(self) -> None:
        """Pass the training batch that needs most memory forward and backward, as the training would.

        It is a training of no steps: model, optimizer, schedule and kernels are as they will be. Weights, random
        numbers and sums are left as they are, so that what is trained afterwards is the same as without.
        """
        before = random_state()
        self._looks = True
        try:
            self.train()
        finally:
            self._looks = False
            set_random_state(*before)
            self.leave()

    def leave(self) -> None:
        """Let go of what a training that ended, or was broken off, has put into the model or holds."""
        self.callback_handler.on_train_end(self.args, self.state, self.control)
        hook = getattr(self, "neftune_hook_handle", None)
        if hook is not None and hook.id in hook.hooks_dict_ref():
            deactivate_neftune(self.model, hook, self.accelerator)
        for value in self.model.parameters():
            value.grad = None
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None:  # it remembers that a broken step's gradients were scaled back
            scaler._per_optimizer_states.clear()
        self.accelerator.free_memory()
        self.optimizer = self.lr_scheduler = None
        self.callback_handler.optimizer = self.callback_handler.lr_scheduler = None
        self._resumed = self._point = None
        self.in_update = False
        collect()

    def save_last_step(self) -> Path | None:
        """Save the last whole step of a training that was broken off, where its weights are still there.

        Returns:
            The newest checkpoint; None where there is none.
        """
        for value in self.model.parameters():
            value.grad = None
        if self._point is not None and not self.in_update:
            self.save_point(self._point)
        checkpoints = self.saving.checkpoints
        return None if checkpoints.newest_step is None else checkpoints.path(checkpoints.newest_step)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Train on a batch for which there is room in main memory.

        Raises:
            HostMemoryLowError: There is none.
        """
        room = nullcontext() if self.host is None else self.host.batch(inputs["input_ids"].numel())
        with room:
            loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        super()._maybe_log_save_evaluate(*args, **kwargs)
        self._point = self.point()
        self.in_update = False

    def _run_epoch(self, *, epoch: int, **kwargs: Any) -> None:
        if not self._looks:
            super()._run_epoch(epoch=epoch, **kwargs)
            return
        self._pass_worst_batch(kwargs["model"])
        self.control.should_training_stop = True

    def _pass_worst_batch(self, model: Any) -> None:
        loader = self.callback_handler.train_dataloader
        numbers = worst_rows(loader.dataset, self.micro_batch[0])
        sums = self.loop_state()
        # The optimizer makes its state at its first step, when this batch may be the next.
        state = torch.ones(self._state_bytes(), dtype=torch.uint8, device=self.args.device)
        with left_as_it_is(self.model):
            if self.host is not None and len(numbers) > 2:
                self._require_room(self.host, model, loader, numbers)
            self._pass(model, loader, numbers)
        del state
        self.set_loop_state(*sums)

    def _require_room(self, host: HostWatch, model: Any, loader: Any, numbers: list[int]) -> None:
        """Look what two rows take more than one, and whether there is room for all of them at that rate."""
        peaks = []
        for few in (1, 2):
            self._pass(model, loader, numbers[:few])
            peaks.append(host.peak())
        host.require_up_to(peaks[1] + (len(numbers) - 2) * (peaks[1] - peaks[0]))

    def _pass(self, model: Any, loader: Any, numbers: list[int]) -> None:
        batch = loader.collate_fn([loader.dataset[number] for number in numbers])
        batches, count = self.get_batch_samples(iter([batch]), 1, self.args.device)
        self.current_gradient_accumulation_steps = self.args.gradient_accumulation_steps
        self.training_step(model, batches[0], count)
        for value in self.model.parameters():
            value.grad = None

    def _state_bytes(self) -> int:
        trained: int = sum(one.numel() for one in self.model.parameters() if one.requires_grad)
        return round(state_bytes(self.config.train.optim) * trained)
