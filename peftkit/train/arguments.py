"""The arguments that a configuration gives to TRL's or transformers' trainer, and what these refuse."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from peftkit import machine
from peftkit.config import TrainConfig
from peftkit.errors import ConfigError, MissingDependencyError, first_line
from peftkit.train.optimizers import arguments_for_transformers, name_in_transformers

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from peftkit.model.family import Family

_KEYS_OF_THEIR_OWN: Mapping[str, str] = {
    "label_smoothing_factor": "train.label_smoothing",
    "loss_type": "train.loss",
}
"""Arguments that a key of peftkit takes the place of; given as well, one of the two would be passed over in silence."""


def training_arguments(
    config: TrainConfig, output: Path, dtype: torch.dtype, family: Family = "causal"
) -> TrainingArguments:
    """Return the arguments of a family's trainer: `SFTConfig`, `TrainingArguments` or `Seq2SeqTrainingArguments`.

    Raises:
        ConfigError: `train.extra` holds a name that they do not have, or they refuse a value.
        MissingDependencyError: A setting needs a library that is not here.
    """
    kind = _kind_of_arguments(family)
    known = {field.name for field in dataclasses.fields(kind)}
    for name in config.extra:
        if name in _KEYS_OF_THEIR_OWN:
            raise ConfigError(f"train.extra.{name} is a key of its own; set {_KEYS_OF_THEIR_OWN[name]}")
        if name not in known:
            library = "TRL" if family == "causal" else "transformers"
            raise ConfigError(f"train.extra.{name} is not an argument of {library}'s {kind.__name__}")
    if config.packing and config.extra.get("packing_strategy") == "wrapped":
        raise ConfigError("train.extra.packing_strategy=wrapped lets texts see each other; take bfd, or leave it out")
    if family != "causal" and config.packing:
        raise ConfigError("train.packing=true is for decoders that write; leave it out for this model and task")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with refusals():
        return kind(**(_arguments(config, output, dtype) | _of_family(config, family) | config.extra))


def _kind_of_arguments(family: Family) -> Any:
    if family == "causal":
        from trl import SFTConfig

        return SFTConfig
    from transformers import Seq2SeqTrainingArguments, TrainingArguments

    return TrainingArguments if family == "head" else Seq2SeqTrainingArguments


def _of_family(config: TrainConfig, family: Family) -> dict[str, Any]:
    noise = {"neftune_noise_alpha": config.neftune_noise_alpha or None}
    if family == "causal":
        return {"max_length": config.max_length, "packing": config.packing, **noise}
    counts = {"include_num_input_tokens_seen": "non_padding"}  # TRL counts them itself
    return counts if family == "seq2seq" else {**counts, **noise}  # the trainer of encoder-decoders adds noise itself


def _arguments(config: TrainConfig, output: Path, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "output_dir": str(output),
        "learning_rate": config.learning_rate,
        "num_train_epochs": config.num_train_epochs,
        "max_steps": config.max_steps or -1,
        "per_device_train_batch_size": config.per_device_train_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "optim": name_in_transformers(config),
        **arguments_for_transformers(config),
        "lr_scheduler_type": config.lr_scheduler_type,
        "warmup_steps": min(config.warmup_fraction, 0.999),  # transformers reads a value below 1 as a share
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "gradient_checkpointing": config.gradient_checkpointing,
        "train_sampling_strategy": "group_by_length" if config.group_by_length else "random",
        "logging_steps": config.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # a loss that is not finite must be seen
        "save_strategy": "steps" if config.save_steps else "epoch",
        "save_steps": config.save_steps or 500,
        "seed": config.seed,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "use_cpu": machine.device() == "cpu",
        "dataloader_pin_memory": machine.device() == "cuda",
        "disable_tqdm": True,
        "report_to": "none",
    }


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what TRL, transformers and torch refuse into errors of the user's settings."""
    try:
        yield
    except ImportError as error:
        raise MissingDependencyError(
            f"a train.* setting needs a library that is not here: {first_line(error)}"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"the train.* settings are refused: {first_line(error)}") from error
