"""Models that write on: TRL's `SFTTrainer` with few overrides, each for one reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import trl.trainer.utils
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.utils import FusedCausalLMOutput

from peftkit.config import RunConfig
from peftkit.data.examples import IGNORED, Example
from peftkit.errors import ConfigError
from peftkit.kernels.loss_head import OnProcessor
from peftkit.train.checks import loss_name
from peftkit.train.documents import require_apart
from peftkit.train.losses import mean_terms, smoothed_cross_entropy, softmax_loss
from peftkit.train.shared import Batch, SharedTrainer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

_METRICS = "metrics/"


class AdapterTrainer(SharedTrainer, SFTTrainer):  # type: ignore[misc]
    """Trains a model that writes on; `dataset` has weights where rows weigh differently.

    The cross-entropy of rows that all weigh the same is TRL's own. For any other loss TRL is given the terms of that
    loss in place of its own. They come from the log-probabilities of TRL's fused head; label smoothing alone needs the
    logits of the whole vocabulary.
    """

    def __init__(
        self,
        model: PeftModel,
        args: SFTConfig,
        dataset: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        config: RunConfig,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        weighted = "weight" in dataset.column_names
        self.own_loss = weighted or config.train.label_smoothing > 0 or loss_name(config) != "cross_entropy"
        super().__init__(model, args, dataset, tokenizer, None, config, callbacks)
        if weighted and self.padding_free:
            raise ConfigError("rows that are packed cannot have weights of their own; take train.packing=false")
        if self.padding_free and model.device.type != "meta":
            require_apart(model, self.data_collator)
        if self.own_loss:
            self.data_collator: Any = _WithWeights(self.data_collator)

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """Compute the loss, projecting only the trained positions onto the vocabulary on every device."""
        if self.own_loss:
            model = _OwnLoss(model, self.config, inputs.pop("weight"), num_items_in_batch)
            num_items_in_batch = torch.ones(())  # its terms are divided already
        with _only_trained_positions():
            computed = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return computed if return_outputs else self.with_penalty(computed)

    def loop_state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return what the loop and TRL have summed up since the last line of the log."""
        tensors, values = super().loop_state()
        sums = {
            f"{_METRICS}{name}": torch.tensor(held, dtype=torch.float64)
            for name, held in self._metrics["train"].items()
        }
        return {**tensors, **sums}, {**values, "tokens": self._total_train_tokens}

    def set_loop_state(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Put it back."""
        super().set_loop_state(tensors, values)
        self._metrics["train"].clear()
        for name, held in tensors.items():
            if name.startswith(_METRICS):
                self._metrics["train"][name.removeprefix(_METRICS)] = held.tolist()
        self._total_train_tokens = values["tokens"]

    def item_weights(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each token that is predicted, [rows, tokens - 1]."""
        weights: torch.Tensor = batch["weight"][:, None] * (batch["labels"][:, 1:] != IGNORED)
        return weights

    def _send_telemetry(self) -> None:
        """Report nothing: TRL tells the hub of every trainer that is made."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Leave TRL's card out of checkpoints: its licence is a placeholder, and the adapter gets a card of its own."""


class _OwnLoss:
    """A model whose log-probabilities are replaced by the negative terms of the loss, which TRL then adds up.

    Args:
        model: With TRL's fused head.
        config: Names the loss.
        weight: Of each row, [rows].
        total: Sum of the trained tokens' weights over the optimizer step; None takes that of the batch.
    """

    def __init__(self, model: Any, config: RunConfig, weight: torch.Tensor, total: torch.Tensor | None) -> None:
        self.model = model
        self.name, self.settings = loss_name(config), config.train
        self.weight = weight
        self.total = total

    def __call__(self, **inputs: Any) -> FusedCausalLMOutput:
        if self.settings.label_smoothing:
            outputs, losses = self._smoothed(**inputs)
        else:
            outputs = self.model(**inputs)
            losses = softmax_loss(outputs.log_probs, self.name, self.settings)
        weights = self.weight[:, None] * outputs.label_mask
        outputs.log_probs = -mean_terms(losses, weights, weights.sum() if self.total is None else self.total)
        return outputs

    def _smoothed(
        self, *, labels: torch.Tensor, fused_lm_head: bool, **inputs: Any
    ) -> tuple[FusedCausalLMOutput, torch.Tensor]:
        """Return TRL's outputs and the smoothed losses, from logits where some row of the batch is trained."""
        following = labels[:, 1:]
        trained = (following != IGNORED).any(0).nonzero().squeeze(-1)
        # Counted from the end, as virtual tokens of a prompt may stand in front.
        outputs = self.model(**inputs, logits_to_keep=trained - labels.shape[1])
        kept = following[:, trained]
        losses = smoothed_cross_entropy(outputs.logits, kept, self.settings.label_smoothing)
        mask = kept != IGNORED
        return FusedCausalLMOutput(
            entropy=torch.zeros_like(losses),
            is_top1=(outputs.logits.argmax(-1) == kept) & mask,
            label_mask=mask,
            aux_loss=outputs.aux_loss if "output_router_logits" in inputs else None,
        ), losses


@dataclass
class _WithWeights:
    """Adds the rows' weights to the batches of a collator that knows none; without a weight, packed or not, it is 1."""

    collate: Callable[[list[Batch]], Batch]

    def __call__(self, rows: list[Batch]) -> Batch:
        batch = self.collate(rows)
        weights = [row["weight"] for row in rows] if "weight" in rows[0] else [1.0] * len(batch["labels"])
        return {**batch, "weight": torch.tensor(weights)}


@contextmanager
def _only_trained_positions() -> Iterator[None]:
    """Let TRL drop untrained positions before its loss head without Triton too.

    TRL 1.16 does so only where Triton runs, to spare compilers a shape that changes; on a processor nothing is
    compiled, and projecting all positions is the costliest product of a small model's step. There the head is ours.
    """
    asked, head = trl.trainer.utils._use_triton, trl.trainer.utils._ChunkedLogProbFunction
    trl.trainer.utils._use_triton, trl.trainer.utils._ChunkedLogProbFunction = _compiles_nothing, OnProcessor
    try:
        yield
    finally:
        trl.trainer.utils._use_triton, trl.trainer.utils._ChunkedLogProbFunction = asked, head


def _compiles_nothing(device: torch.device) -> bool:
    return device.type in ("cpu", "cuda", "xpu")


def training_dataset(examples: Sequence[Example], weights: Sequence[float] | None = None) -> Dataset:
    """Return examples as the columns that `SFTTrainer` takes without preparing them again, with weights if given."""
    columns: dict[str, Any] = {
        "input_ids": [example.prompt_ids + example.completion_ids for example in examples],
        "labels": [[IGNORED] * len(example.prompt_ids) + example.trained_ids for example in examples],
        "length": [len(example) for example in examples],
    }
    return Dataset.from_dict(columns if weights is None else {**columns, "weight": weights})
