"""A few training rows as tensors, for what looks at them outside the trainer; and how many steps a run has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from peftkit.config import TrainConfig
from peftkit.data.examples import IGNORED, Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from peftkit.model.family import Family


def first_batches(
    examples: Sequence[Example],
    family: Family,
    tokenizer: PreTrainedTokenizerBase,
    *,
    size: int,
    most: int,
    device: torch.device,
) -> list[dict[str, torch.Tensor]]:
    """Return the first rows as arguments of a model's forward pass.

    Returns:
        At most `most` batches of `size` rows, each with `input_ids` and `attention_mask`, int64 [rows, tokens], and
        `labels`: int64 [rows, tokens], or for a head one number (or one for each label) per row.
    """
    return [
        {name: tensor.to(device) for name, tensor in _batch(examples[start : start + size], family, tokenizer).items()}
        for start in range(0, min(len(examples), size * most), size)
    ]


def optimizer_steps(config: TrainConfig, rows: int) -> int:
    """Return the number of optimizer steps of a run on so many training rows."""
    if config.max_steps:
        return config.max_steps
    batches = math.ceil(rows / config.per_device_train_batch_size)
    return math.ceil(max(1, math.ceil(batches / config.gradient_accumulation_steps)) * config.num_train_epochs)


def rows_trained(config: TrainConfig, rows: int) -> str:
    """Say how many of so many training rows a run takes, as `24 of 800`, or `800` where it takes all."""
    taken = config.max_steps * config.per_device_train_batch_size * config.gradient_accumulation_steps
    some = config.max_steps and not config.packing and taken < rows
    return f"{taken:,} of {rows:,}" if some else f"{rows:,}"


def _batch(examples: Sequence[Example], family: Family, tokenizer: PreTrainedTokenizerBase) -> dict[str, torch.Tensor]:
    pad = int(tokenizer.pad_token_id or 0)
    writes = family == "causal"
    ids = [one.prompt_ids + one.completion_ids if writes else one.prompt_ids for one in examples]
    batch = {"input_ids": _padded(ids, pad), "attention_mask": _padded([[1] * len(one) for one in ids], 0)}
    if family == "head":
        return {**batch, "labels": torch.tensor([one.target for one in examples])}
    before = [[IGNORED] * len(one.prompt_ids) if writes else [] for one in examples]
    labels = [first + one.trained_ids for first, one in zip(before, examples, strict=True)]
    return {**batch, "labels": _padded(labels, IGNORED)}


def _padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])
