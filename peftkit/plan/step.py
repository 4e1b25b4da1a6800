"""One training step of a run, traced: the run's own trainer, on the meta device or on real tensors."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map_only

from peftkit.adapter.adalora import after_optimizer_step, allocator_state
from peftkit.adapter.attach import count_parameters
from peftkit.config import RunConfig
from peftkit.data.examples import Example
from peftkit.plan.build import build_model, frozen_states
from peftkit.plan.judging import Judged, judge
from peftkit.plan.ledger import Ledger, Trace
from peftkit.plan.parts import BACKWARD, FORWARD, OPTIMIZER, watch_head, watch_layers
from peftkit.plan.stand_ins import Answers, meant_device
from peftkit.plan.tokenizer import blank_tokenizer
from peftkit.plan.work import Work
from peftkit.plan.workspace import hidden_bytes

if TYPE_CHECKING:
    from peftkit.model.family import Family
    from peftkit.plan.autocast import Surroundings
    from peftkit.train.shared import SharedTrainer


@dataclass(frozen=True)
class Batch:
    """The rows that pass through a model at once.

    Attributes:
        rows: Their number.
        length: Tokens of the longest.
        trained: Tokens of each that are trained, the last ones.
        padded: Whether the others are shorter, so that attention needs a mask.
    """

    rows: int
    length: int
    trained: int
    padded: bool = False


@dataclass(frozen=True)
class Device:
    """Where a step runs.

    Attributes:
        kind: `cuda` or `cpu`.
        dtype: What is computed in.
    """

    kind: str
    dtype: torch.dtype

    @property
    def autocast(self) -> torch.dtype | None:
        """What autocast computes in; None where everything is float32."""
        return None if self.dtype == torch.float32 else self.dtype


@dataclass(frozen=True)
class Traced:
    """What a step was seen to do.

    Attributes:
        trace: What happened to memory.
        work: What was computed.
        trainable: Number of parameters that are trained.
        frozen: Number of the others; one of 4 bits counts as one.
        moved: Most bytes of activations that were in main memory at once.
    """

    trace: Trace
    work: Work
    trainable: int
    frozen: int
    moved: int = 0


def trace_step(
    settings: Any, config: RunConfig, family: Family, batch: Batch, device: Device, judged: Judged | None = None
) -> Traced:
    """Trace a step of a run on the meta device, and judging held-out rows after it.

    Args:
        settings: The base model's configuration.
        config: The run's configuration; for a head, with its labels.
        family: How the model answers.
        batch: The rows of each forward pass.
        device: Where the run will be.
        judged: The held-out rows that are judged at once; None leaves that out.

    Raises:
        PeftkitError: The run cannot be as it is configured.
        Exception: A part cannot be modelled: whatever the library raised that has no meta tensors.
    """
    with meant_device(device.kind, device.autocast) as surroundings, watch_head() as watch:
        model = build_model(settings, config, family, device.dtype)
        trainer, batches = _trainer(model, config, family, batch)
        answers = Answers.of(batches, batch.padded or config.train.packing)
        work = Work()
        ledger = Ledger("meta", answers, hidden_bytes if device.kind == "cuda" else None, work)
        watch(ledger)
        step = _MetaStep(trainer, surroundings, ledger, batches)
        step.prepare()
        with ledger:
            step.train()
            if judged is not None and judged.rows:
                answers.trained = answers.columns = judged.rows * judged.written
                answers.masked = judged.rows > 1
                judge(model.eval(), family, config, judged, ledger)
        trainable, total = count_parameters(model)
    offload = trainer.kernels.offload
    moved = surroundings.main_memory.peak + (offload.most if offload else 0)
    return Traced(ledger.trace, work, trainable, total - trainable, moved)


class _MetaStep:
    """Does what transformers' `Trainer.train` does in a step, on meta tensors."""

    def __init__(self, trainer: Any, surroundings: Surroundings, ledger: Ledger, batches: Sequence[Any]) -> None:
        self.trainer, self.ledger, self.batches = trainer, ledger, batches
        self.surroundings = surroundings
        self.model = trainer.model

    def prepare(self) -> None:
        """Make everything that is there before the step, and tell the ledger of it."""
        trainer = self.trainer
        _enable_checkpointing(trainer)
        trainer.callback_handler.on_train_begin(trainer.args, trainer.state, trainer.control)
        if trainer.neftune_noise_alpha is not None:
            from transformers.integrations import activate_neftune

            activate_neftune(self.model, trainer.neftune_noise_alpha, trainer.accelerator)
        watch_layers(self.ledger, self.model)
        self._surround()
        trainer.create_optimizer_and_scheduler(num_training_steps=100)
        if self.surroundings.device == "cuda":
            for group in trainer.optimizer.param_groups:
                if "foreach" in group:
                    group["foreach"] = True  # what torch takes where the parameters are on a GPU
        adopt_model(self.ledger, self.model)
        self._make_optimizer_state()

    def train(self) -> None:
        """Do the step: forward and backward passes, and the optimizer's step."""
        trainer, ledger = self.trainer, self.ledger
        inputs = [tree_map_only(torch.Tensor, lambda one: one.to("meta"), dict(batch)) for batch in self.batches]
        trainer.current_gradient_accumulation_steps = len(inputs)
        backward = trainer.accelerator.backward
        trainer.accelerator.backward = _named(ledger, BACKWARD, backward)
        for number, one in enumerate(inputs):
            trainer.accelerator.gradient_state._set_sync_gradients(number == len(inputs) - 1)
            ledger.start(FORWARD)
            trainer.training_step(self.model, dict(one), torch.ones((), device="meta"))
        ledger.start(OPTIMIZER)
        ledger.place = ""
        if trainer.args.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        adopt_gradients(ledger, self.model)
        self.model.zero_grad()

    def _surround(self) -> None:
        """Wrap the model's forward pass as accelerate does, and what checkpointing runs again."""
        from accelerate.utils import convert_outputs_to_fp32

        run = self.surroundings.wrapped
        self.model.forward = convert_outputs_to_fp32(run(self.model.forward))
        for module in self.model.modules():
            checkpoint = getattr(module, "_gradient_checkpointing_func", None)
            if checkpoint is not None:
                module._gradient_checkpointing_func = _with(checkpoint, run)

    def _make_optimizer_state(self) -> None:
        """Let the optimizer make its state, which is there in every step but the first."""
        trained = [one for one in self.model.parameters() if one.requires_grad]
        for one in trained:
            one.grad = torch.empty_like(one)
        if callable(start := getattr(self.trainer.optimizer, "train", None)):  # those without a schedule ask for it
            start()
        self.trainer.optimizer.step()
        after_optimizer_step(self.model, 0)
        self.model.zero_grad()
        adopt_optimizer(self.ledger, self.trainer.optimizer)
        self.ledger.adopt(allocator_state(self.model)[0].values(), "optimizer")


def _with(checkpoint: Callable[..., Any], run: Callable[..., Any]) -> Callable[..., Any]:
    return lambda function, *args, **kwargs: checkpoint(run(function), *args, **kwargs)


def _named(ledger: Ledger, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        ledger.start(name)
        return function(*args, **kwargs)

    return run


def _enable_checkpointing(trainer: Any) -> None:
    """Turn checkpointing on as `Trainer.train` does."""
    arguments = trainer.args
    if arguments.activation_checkpointing:
        settings = dict(arguments.activation_checkpointing_kwargs or {})
        every, offload = settings.pop("every_n_layers", 1), settings.pop("offload", False)
        trainer.model.activation_checkpointing_enable(
            activation_checkpointing_kwargs=settings or None, every_n_layers=every, offload=offload
        )


def adopt_model(ledger: Ledger, model: torch.nn.Module) -> None:
    """Tell a ledger what a model holds: its frozen weights by dtype, and what is trained."""
    ledger.adopt(model.buffers(), "buffers")
    for value in frozen_states(model):
        ledger.adopt([value], "base scales")
    for value in model.parameters():
        ledger.adopt([value], "adapter" if value.requires_grad else f"base {str(value.dtype).removeprefix('torch.')}")


def adopt_gradients(ledger: Ledger, model: torch.nn.Module) -> None:
    """Tell a ledger which storages are gradients."""
    ledger.adopt([one.grad for one in model.parameters() if one.grad is not None], "gradients")


def adopt_optimizer(ledger: Ledger, optimizer: Any) -> None:
    """Tell a ledger what an optimizer holds."""
    held = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    ledger.adopt(held, "optimizer")


def _trainer(model: Any, config: RunConfig, family: Family, batch: Batch) -> tuple[SharedTrainer, list[dict[str, Any]]]:
    """Make the run's trainer, and the batches of two forward passes where gradients are accumulated, else of one."""
    from peftkit.train.trainers import make_trainer

    passes = min(config.train.gradient_accumulation_steps, 2)
    # Paged state can leave the card, but only where it must: it is counted as if it stayed.
    train = config.train.model_copy(update={"save_steps": 0, "optim": config.train.optim.removeprefix("paged_")})
    # Mixed precision is brought in from outside, and the model is where it should be.
    config = config.model_copy(update={"train": train, "model": config.model.model_copy(update={"dtype": "float32"})})
    model.hf_device_map = {"": "meta"}
    with tempfile.TemporaryDirectory() as folder:
        rows = examples(family, config, batch, passes)
        trainer = make_trainer(model, family, blank_tokenizer(), rows, config, Path(folder) / "checkpoints")
    for name, value in list(vars(trainer).items()):
        if isinstance(value, torch.Tensor):  # counts and weights that the trainer put where it thinks the model is
            setattr(trainer, name, value.to("meta"))
    data = trainer._remove_unused_columns(trainer.train_dataset, "training")
    rows = [data[number] for number in range(len(data))]  # fewer than were given where they were packed
    starts = range(0, batch.rows * passes, batch.rows)
    return trainer, [trainer.data_collator(rows[start : start + batch.rows]) for start in starts if rows[start:]]


def examples(family: Family, config: RunConfig, batch: Batch, passes: int = 1) -> list[Example]:
    """Make the rows of several forward passes; the first of each is the longest, and packed ones fill each row."""
    packed = config.train.max_length // batch.length if config.train.packing else 1
    return [
        _example(family, config, batch, number, max(2, batch.length // 2) if shorter else batch.length)
        for number in range(batch.rows * passes * max(1, packed))
        for shorter in (batch.padded and number % batch.rows > 0,)
    ]


def _example(family: Family, config: RunConfig, batch: Batch, number: int, length: int) -> Example:
    labels = config.task.labels or ("",)
    weight = 1.0 + number % 2 if config.data.weight_column else 1.0
    trained = 0 if family == "head" else batch.trained if family == "seq2seq" else min(batch.trained, length - 1)
    read = length - trained if family == "causal" else length
    target = _target(config, number) if family == "head" else None
    expected = labels[number % len(labels)]
    return Example("", {}, expected, [1] * read, [1] * trained, False, target=target, weight=weight)


def _target(config: RunConfig, number: int) -> int | float | tuple[float, ...]:
    if config.task.kind == "regression":
        return 0.5
    labels = len(config.task.labels or ())
    return tuple(float(one == number % labels) for one in range(labels)) if config.task.multi_label else number % labels
