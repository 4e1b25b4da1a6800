"""Models with a head: transformers' `Trainer`, for labels and scores."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding, TrainerCallback, TrainingArguments

from peftkit.config import RunConfig
from peftkit.data.examples import Example
from peftkit.train.checks import loss_name
from peftkit.train.losses import label_loss, labels_loss, score_loss
from peftkit.train.shared import Batch, SharedTrainer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


class HeadTrainer(SharedTrainer):
    """Trains a model whose head gives a label, labels or a score; its loss is a mean over rows.

    Args:
        model: See `SharedTrainer`, as for the others.
        positive: Where a row has several labels: the weight of each where it is right.
    """

    def __init__(
        self,
        model: PeftModel,
        args: TrainingArguments,
        dataset: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        config: RunConfig,
        callbacks: Sequence[TrainerCallback] = (),
        positive: Sequence[float] = (),
    ) -> None:
        collator = DataCollatorWithPadding(padding_on_the_right(tokenizer))
        super().__init__(model, args, dataset, tokenizer, collator, config, callbacks)
        self._positive = torch.tensor(positive, device=args.device)

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """Compute the loss of a batch as its part of the mean over the optimizer step's rows."""
        targets, weights = inputs.pop("labels"), inputs.pop("weight")
        outputs = model(**inputs)
        name, settings = loss_name(self.config), self.config.train
        if self.config.task.kind == "regression":
            losses = score_loss(outputs.logits.squeeze(-1), targets, name, settings)
        elif self.config.task.multi_label:
            losses = labels_loss(outputs.logits, targets, name, settings, self._positive)
        else:
            losses = label_loss(outputs.logits, targets, name, settings)
        loss = self.mean_over_step(losses, weights, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def item_weights(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each row, [rows]."""
        weights: torch.Tensor = batch["weight"]
        return weights


def padding_on_the_right(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return the tokenizer for training batches, whose positions count from the first token.

    The tokenizer itself may pad on the left, as writing on needs it.
    """
    right = copy(tokenizer)
    right.padding_side = "right"
    return right


def head_dataset(examples: Sequence[Example], weights: Sequence[float]) -> Dataset:
    """Return examples as columns: token ids, target, weight, and length in tokens."""
    return Dataset.from_dict(
        {
            "input_ids": [example.prompt_ids for example in examples],
            "labels": [example.target for example in examples],
            "weight": weights,
            "length": [len(example) for example in examples],
        }
    )
