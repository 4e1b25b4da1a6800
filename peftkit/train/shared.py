"""What all trainers share: an adapter in float32, saved alone, and a loss that is a mean over the optimizer step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from peftkit.adapter.adalora import after_optimizer_step, orthogonality_penalty
from peftkit.adapter.attach import save_adapter
from peftkit.config import RunConfig
from peftkit.kernels.install import Kernels
from peftkit.memory.host import HostWatch
from peftkit.train.arguments import refusals
from peftkit.train.finite import GuardedTrainer
from peftkit.train.losses import mean_terms
from peftkit.train.optimizers import own_optimizer
from peftkit.train.shrinking import ShrinkingTrainer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

Batch = dict[str, Any]
COLUMNS = ("input_ids", "labels", "seq_lengths", "weight")


class SharedTrainer(ShrinkingTrainer, GuardedTrainer):
    """Trains an adapter that is attached already, on examples that are encoded already.

    Args:
        model: Base model with its adapter.
        args: What `training_arguments` returns.
        dataset: `input_ids`, `labels` and `length` of each row, and its `weight` where the class asks for it.
        tokenizer: Gives the id of padding.
        collator: Makes batches of rows; None takes that of the class.
        config: The run's configuration.
        callbacks: What watches the training.

    Raises:
        ConfigError: The settings are refused.
        MissingDependencyError: A setting needs a library that is not here.
    """

    own_loss = True
    """Whether the loss is computed by peftkit, from batches with a `weight` for each row."""

    def __init__(
        self,
        model: PeftModel,
        args: TrainingArguments,
        dataset: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        collator: Any,
        config: RunConfig,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.config = config
        self.kernels = Kernels(model, config)
        trained = {name: value.data for name, value in model.named_parameters() if value.requires_grad}
        with refusals():
            super().__init__(
                model=model,
                args=args,
                data_collator=collator,
                train_dataset=dataset,
                processing_class=tokenizer,
                callbacks=[*callbacks, AfterSteps(self), WithKernels(self.kernels)],
            )
        # TRL has just cast the adapter of a quantized model to bfloat16; its float32 values are put back.
        for name, value in model.named_parameters():
            if name in trained:
                value.data = trained[name]
        self.remove_callback(PrinterCallback)
        self.host = HostWatch() if model.device.type == "cpu" else None  # a plan's model is on no device
        if self.own_loss:
            self.loss_is_scaled_for_ga = True
        self.optimizer_cls_and_kwargs = own_optimizer(config.train, config.adapter)
        self._schedule_arguments = dict(args.lr_scheduler_kwargs or {})
        # Made once and dropped: what optimizer or schedule refuse is then said before hours of work.
        with refusals():
            self.create_optimizer_and_scheduler(num_training_steps=100)
        self.optimizer = self.lr_scheduler = None

    @abstractmethod
    def item_weights(self, batch: Batch) -> torch.Tensor:
        """Return the weight in the loss of each item of a batch: a row, or a row's token; 0 where none is trained."""

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor | int | None]:
        """Return the batches of an optimizer step, and the sum of their items' weights over all processes."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.own_loss and batches:
            count = torch.stack([self.item_weights(batch).sum() for batch in batches]).sum().to(device)
            if self.args.world_size > 1 and self.args.average_tokens_across_devices:
                count = self.accelerator.gather(count).sum()
        self.watch_batches(batches, count)
        return batches, count

    def loop_state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return what the loop has summed up since the last line of the log, and the steps that were left out."""
        tensors, values = super().loop_state()
        return tensors, {**values, "skipped": self.skipped_steps}

    def set_loop_state(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Put it back."""
        super().set_loop_state(tensors, values)
        self.skipped_steps = values["skipped"]

    def mean_over_step(self, losses: torch.Tensor, weights: torch.Tensor, total: torch.Tensor | None) -> torch.Tensor:
        """Return this batch's part of the weighted mean over the optimizer step.

        Processes average their gradients: where the sum is that of all of them, each takes its part times their number.
        """
        mean = mean_terms(losses, weights, weights.sum() if total is None else total).sum()
        return self.with_penalty(
            mean * self.accelerator.num_processes if self.args.average_tokens_across_devices else mean
        )

    def with_penalty(self, loss: torch.Tensor) -> torch.Tensor:
        """Add what the adapter's method adds to the loss, once in an optimizer step."""
        penalty = orthogonality_penalty(self.model)
        return loss if penalty is None else loss + penalty / self.current_gradient_accumulation_steps

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Train, and leave the model as it was also where that fails."""
        try:
            return super()._inner_training_loop(*args, **kwargs)
        finally:
            self.kernels.remove()

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Make the schedule; of warmup_stable_decay, how long it falls is a share of the steps here."""
        if self.config.train.lr_scheduler_type == "warmup_stable_decay":
            steps = round(self.config.train.decay_fraction * num_training_steps)
            self.args.lr_scheduler_kwargs = {"num_decay_steps": steps} | self._schedule_arguments
        return super().create_scheduler(num_training_steps, optimizer)

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the columns that collators take; transformers would go by the names of the model's arguments."""
        self._signature_columns = list(COLUMNS)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write the adapter alone: no pickled arguments, no copy of the tokenizer."""
        save_adapter(self.model, Path(output_dir or self.args.output_dir))


class AfterSteps(TrainerCallback):  # type: ignore[misc]
    """What adapters and optimizers want done after each step.

    Args:
        trainer: Knows whether a step was left out, and is told when weights begin to change.
    """

    def __init__(self, trainer: SharedTrainer) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note that from here on the weights may be changed in part."""
        self._trainer.in_update = True

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Let a method that moves ranks between layers do so."""
        if not self._trainer.step_is_skipped:
            after_optimizer_step(model, state.global_step)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Swap in the averaged weights of a schedule-free optimizer, so that these are saved; others have none.

        The trainer puts the trained weights back before the next step, but averages before an evaluation only.
        """
        optimizer.eval()


class WithKernels(TrainerCallback):  # type: ignore[misc]
    """Has a model's kernels in it while it is trained, and not when it is judged or merged."""

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put them in."""
        self.kernels.install()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take them out."""
        self.kernels.remove()
