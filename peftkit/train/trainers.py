"""The trainer that suits a kind of base model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import TrainerCallback

from peftkit.checkpoint.folders import Checkpoints
from peftkit.config import RunConfig
from peftkit.data.examples import Example
from peftkit.errors import ConfigError
from peftkit.model.load import resolved_dtype
from peftkit.train.arguments import training_arguments
from peftkit.train.saving import Saving
from peftkit.train.shared import SharedTrainer
from peftkit.train.weights import positive_weights, row_weights

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from peftkit.model.family import Family
    from peftkit.train.shared import SharedTrainer


def make_trainer(
    model: PeftModel,
    family: Family,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    config: RunConfig,
    checkpoints: Path,
    callbacks: Sequence[TrainerCallback] = (),
    saving: Saving | None = None,
) -> SharedTrainer:
    """Return the trainer of an adapter: TRL's for models that write on, transformers' for heads and encoder-decoders.

    Args:
        model: Base model with its adapter.
        family: How the base model answers.
        tokenizer: The base model's.
        examples: Training rows.
        config: The run's configuration, with the task's labels.
        checkpoints: Folder for checkpoints.
        callbacks: What watches the training.
        saving: When to save; by default as the configuration says.

    Raises:
        ConfigError: A setting is refused, or does not go with another.
        DataError: A row's weight is not usable.
        MissingDependencyError: A setting needs a library that is not here.
    """
    trainer = _make(model, family, tokenizer, examples, config, checkpoints, callbacks)
    trainer.saving = saving or Saving(Checkpoints(checkpoints, config.train.save_total_limit), config.train)
    trainer.examples = examples
    return trainer


def _make(
    model: PeftModel,
    family: Family,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    config: RunConfig,
    checkpoints: Path,
    callbacks: Sequence[TrainerCallback],
) -> SharedTrainer:
    arguments = training_arguments(config.train, checkpoints, resolved_dtype(config.model), family)
    weights = row_weights(examples, config)
    if family == "head":
        from peftkit.train.head_trainer import HeadTrainer, head_dataset

        positive = positive_weights(examples, config) if config.task.multi_label else ()
        dataset = head_dataset(examples, weights)
        return HeadTrainer(model, arguments, dataset, tokenizer, config, callbacks, positive)
    if config.task.multi_label and (config.train.class_weights or config.train.balance_classes):
        raise ConfigError("labels can be weighed where a head gives several of them; take task.answer=head")
    if family == "seq2seq":
        from peftkit.train.seq2seq_trainer import EncoderDecoderTrainer, seq2seq_dataset

        dataset = seq2seq_dataset(examples, weights)
        return EncoderDecoderTrainer(model, arguments, dataset, tokenizer, config, callbacks)
    from peftkit.train.trainer import AdapterTrainer, training_dataset

    dataset = training_dataset(examples, None if set(weights) == {1.0} else weights)
    return AdapterTrainer(model, arguments, dataset, tokenizer, config, callbacks)
