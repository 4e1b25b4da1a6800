"""What a model with a head answers: labels with their log-probabilities, or a score."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from peftkit.config import TaskConfig
from peftkit.data.score_scale import from_standard
from peftkit.evaluate.answers import Answer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

THRESHOLD = 0.5
"""Where a row can have several labels: those at least as probable as this are given."""


def answer_by_head(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    task: TaskConfig,
    *,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
) -> list[Answer]:
    """Answer prompts in batches of like length, padded on the right.

    Args:
        model: A model with a head in evaluation mode, with or without an adapter.
        tokenizer: Its tokenizer.
        prompts: Token ids of each text.
        task: Says what the head's outputs mean.
        batch_size: Prompts at once.
        on_batch: Called with the number of prompts that were answered.

    Returns:
        Answers in the order of the prompts.
    """
    import torch

    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    answers: dict[int, Answer] = {}
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            ids, mask = right_padded([prompts[place] for place in places], int(tokenizer.pad_token_id), model.device)
            logits = model(input_ids=ids, attention_mask=mask).logits.float()  # [rows, outputs]
            answers.update(zip(places, _answers(logits, task), strict=True))
            if on_batch is not None:
                on_batch(len(places))
    return [answers[place] for place in range(len(prompts))]


def right_padded(
    rows: Sequence[Sequence[int]], padding: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of token ids as one tensor, and which of its places hold tokens, both [rows, longest]."""
    import torch

    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
    return ids, mask


def _answers(logits: torch.Tensor, task: TaskConfig) -> list[Answer]:
    import torch

    if task.kind == "regression":
        values = [from_standard(value, task) for value in logits[:, 0].tolist()]
        return [Answer(f"{value:.4g}", value=value) for value in values]
    labels = task.labels or ()
    log_likelihood = torch.nn.functional.logsigmoid(logits) if task.multi_label else logits.log_softmax(-1)
    answers = []
    for row in log_likelihood.tolist():
        scores = {label: round(value, 4) for label, value in zip(labels, row, strict=True)}
        if task.multi_label:
            given = tuple(label for label, value in zip(labels, row, strict=True) if math.exp(value) >= THRESHOLD)
            answers.append(Answer(f"{task.label_separator} ".join(given), scores=scores, labels=given))
        else:
            label = labels[max(range(len(row)), key=row.__getitem__)]
            answers.append(Answer(label, label, scores))
    return answers
