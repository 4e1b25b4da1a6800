"""TRL's `SFTTrainer` with few overrides, each for one reason, and the arguments that a configuration gives it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import trl.trainer.utils
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from peftkit import machine
from peftkit.adapter.attach import save_adapter
from peftkit.config import TrainConfig
from peftkit.data.encode import Example
from peftkit.errors import ConfigError, MissingDependencyError, first_line

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

_IGNORED = -100  # label of a position that is not trained


class AdapterTrainer(SFTTrainer):  # type: ignore[misc]
    """Trains an adapter that is attached already, on examples that are encoded already."""

    def __init__(
        self,
        model: PeftModel,
        args: SFTConfig,
        dataset: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        trained = {name: value.data for name, value in model.named_parameters() if value.requires_grad}
        with _refusals():
            super().__init__(
                model=model, args=args, train_dataset=dataset, processing_class=tokenizer, callbacks=list(callbacks)
            )
        # TRL has just cast the adapter of a quantized model to bfloat16; its float32 values are put back.
        for name, value in model.named_parameters():
            if name in trained:
                value.data = trained[name]
        self.remove_callback(PrinterCallback)
        # Made once and dropped: what optimizer or schedule refuse is then said before hours of work.
        with _refusals():
            self.create_optimizer_and_scheduler(num_training_steps=100)
        self.optimizer = self.lr_scheduler = None

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Compute TRL's loss, projecting only the trained positions onto the vocabulary on every device."""
        with _only_trained_positions():
            return super().compute_loss(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write the adapter alone: no pickled arguments, no copy of the tokenizer."""
        save_adapter(self.model, Path(output_dir or self.args.output_dir))

    def _send_telemetry(self) -> None:
        """Report nothing: TRL tells the hub of every trainer that is made."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Leave TRL's card out of checkpoints: its licence is a placeholder, and the adapter gets a card of its own."""


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what TRL and transformers refuse into errors of the user's settings."""
    try:
        yield
    except ImportError as error:
        raise MissingDependencyError(
            f"a train.* setting needs a library that is not here: {first_line(error)}"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"the train.* settings are refused: {first_line(error)}") from error


@contextmanager
def _only_trained_positions() -> Iterator[None]:
    """Let TRL drop untrained positions before its loss head without Triton too.

    TRL 1.16 does so only where Triton runs, to spare compilers a shape that changes; on a processor nothing is
    compiled, and projecting all positions is the costliest product of a small model's step.
    """
    asked = trl.trainer.utils._use_triton
    trl.trainer.utils._use_triton = _compiles_nothing
    try:
        yield
    finally:
        trl.trainer.utils._use_triton = asked


def _compiles_nothing(device: torch.device) -> bool:
    return device.type in ("cpu", "cuda", "xpu")


def training_dataset(examples: Sequence[Example]) -> Dataset:
    """Return examples as the columns that `SFTTrainer` takes without preparing them again."""
    return Dataset.from_dict(
        {
            "input_ids": [example.prompt_ids + example.completion_ids for example in examples],
            "labels": [[_IGNORED] * len(example.prompt_ids) + example.completion_ids for example in examples],
            "length": [len(example) for example in examples],
        }
    )


def training_arguments(config: TrainConfig, output: Path, dtype: torch.dtype) -> SFTConfig:
    """Return TRL's arguments for a configuration.

    Raises:
        ConfigError: `train.extra` holds a name that TRL does not know, or TRL refuses a value.
    """
    known = {field.name for field in dataclasses.fields(SFTConfig)}
    arguments: dict[str, Any] = {
        "output_dir": str(output),
        "learning_rate": config.learning_rate,
        "num_train_epochs": config.num_train_epochs,
        "max_steps": config.max_steps or -1,
        "per_device_train_batch_size": config.per_device_train_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "max_length": config.max_length,
        "optim": config.optim,
        "lr_scheduler_type": config.lr_scheduler_type,
        "warmup_steps": min(config.warmup_fraction, 0.999),  # transformers reads a value below 1 as a share
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "gradient_checkpointing": config.gradient_checkpointing,
        "train_sampling_strategy": "group_by_length" if config.group_by_length else "random",
        "packing": config.packing,
        "logging_steps": config.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # a loss that is not finite must be seen
        "save_strategy": "steps" if config.save_steps else "epoch",
        "save_steps": config.save_steps or 500,
        "save_total_limit": config.save_total_limit,
        "save_only_model": True,
        "seed": config.seed,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "use_cpu": machine.device() == "cpu",
        "dataloader_pin_memory": machine.device() == "cuda",
        "disable_tqdm": True,
        "report_to": "none",
    }
    for name in config.extra:
        if name not in known:
            raise ConfigError(f"train.extra.{name} is not an argument of TRL's SFTConfig")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with _refusals():
        return SFTConfig(**(arguments | config.extra))
