"""Models that read and then write: transformers' `Seq2SeqTrainer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import (
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.neftune import activate_neftune, deactivate_neftune

from peftkit.config import RunConfig
from peftkit.data.examples import IGNORED, Example
from peftkit.train.checks import loss_name
from peftkit.train.head_trainer import padding_on_the_right
from peftkit.train.losses import label_loss
from peftkit.train.shared import Batch, SharedTrainer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


class EncoderDecoderTrainer(SharedTrainer, Seq2SeqTrainer):  # type: ignore[misc]
    """Trains an encoder-decoder model; its loss is a mean over the tokens that it writes.

    The loss is computed here for every setting: T5 and its kin average over each forward pass alone, so that gradient
    accumulation would weigh tokens by the batch they fell into.
    """

    def __init__(
        self,
        model: PeftModel,
        args: Seq2SeqTrainingArguments,
        dataset: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        config: RunConfig,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        # With the model, the collator makes the decoder's inputs of the labels.
        collator = DataCollatorForSeq2Seq(padding_on_the_right(tokenizer), model=model, label_pad_token_id=IGNORED)
        if config.train.neftune_noise_alpha:
            callbacks = [*callbacks, NoisyEncoder(config.train.neftune_noise_alpha)]
        super().__init__(model, args, dataset, tokenizer, collator, config, callbacks)
        self._hits = torch.zeros(2, dtype=torch.long, device=args.device)  # tokens that were likeliest, and all

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """Compute the loss of a batch as its part of the mean over the optimizer step's trained tokens."""
        weights = self.item_weights(inputs)
        labels = inputs.pop("labels")
        inputs.pop("weight")
        outputs = model(**inputs)
        losses = label_loss(outputs.logits, labels, loss_name(self.config), self.config.train)
        trained = labels != IGNORED
        self._hits += torch.stack([((outputs.logits.argmax(-1) == labels) & trained).sum(), trained.sum()])
        loss = self.mean_over_step(losses, weights, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def item_weights(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each token that is written, [rows, tokens]."""
        weights: torch.Tensor = batch["weight"][:, None] * (batch["labels"] != IGNORED)
        return weights

    def loop_state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return what the loop has summed up since the last line of the log, and the tokens that were likeliest."""
        tensors, values = super().loop_state()
        return {**tensors, "hits": self._hits.clone()}, values

    def set_loop_state(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Put it back."""
        super().set_loop_state(tensors, values)
        self._hits = tensors["hits"].to(self.args.device, copy=True)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the accuracy of the tokens since the line before, under the name that TRL gives it."""
        hits, tokens = self._hits.tolist()
        if "loss" in logs and tokens:
            logs["mean_token_accuracy"] = hits / tokens
            self._hits.zero_()
        super().log(logs, start_time)


class NoisyEncoder(TrainerCallback):  # type: ignore[misc]
    """Adds NEFTune's noise to the encoder's embeddings while training.

    The trainer would add it to the embeddings that encoder and decoder share the weights of, which are never run.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self._handle: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Start adding noise."""
        self._handle = activate_neftune(model.get_encoder(), self.alpha)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Stop adding noise."""
        if self._handle is not None:
            deactivate_neftune(model.get_encoder(), self._handle)
            self._handle = None


def seq2seq_dataset(examples: Sequence[Example], weights: Sequence[float]) -> Dataset:
    """Return examples as columns: the ids that are read, those that are written, weight, and length in tokens."""
    return Dataset.from_dict(
        {
            "input_ids": [example.prompt_ids for example in examples],
            "labels": [example.trained_ids for example in examples],
            "weight": weights,
            "length": [len(example) for example in examples],
        }
    )
