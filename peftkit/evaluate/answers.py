"""What a model answers: generated text, and how likely it finds each allowed label."""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from peftkit.model.stepper import Stepper

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PUNCTUATION = string.punctuation + string.whitespace


@dataclass(frozen=True, slots=True)
class Answer:
    """One row's answer: what was written, chosen or predicted, as far as the task has it.

    Attributes:
        text: The generated text, without special tokens; of a head, the labels or the score as text.
        label: The allowed label that the text is, up to case and punctuation around it; None when it is none of them.
        scores: Log-likelihood of each allowed label, in nats; for a model that writes, with its end token.
        labels: Where a row can have several labels: those that were given; None when the text names another one.
        value: The predicted score.
        nll: Negative log-likelihood of the row's own trained tokens, in nats.
        tokens: Number of those tokens.
        hits: How many of them the model finds likeliest.
    """

    text: str = ""
    label: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    value: float | None = None
    nll: float = 0.0
    tokens: int = 0
    hits: int = 0

    @property
    def chosen(self) -> frozenset[str]:
        """The labels that were given."""
        if self.labels is not None:
            return frozenset(self.labels)
        return frozenset() if self.label is None else frozenset([self.label])

    @property
    def valid(self) -> bool:
        """Whether the answer is made of allowed labels."""
        return self.labels is not None or self.label is not None

    def as_json(self) -> dict[str, Any]:
        """Return text, label or labels, scores and value as files hold them, without those that it has not."""
        found: dict[str, Any] = {"answer": self.text}
        if self.labels is not None:
            found["labels"] = list(self.labels)
        if self.scores:
            found |= {"label": self.label, "scores": dict(self.scores)}
        return found if self.value is None else {**found, "value": self.value}

    @property
    def likeliest(self) -> str | None:
        """The label with the highest score."""
        return max(self.scores, key=lambda label: self.scores[label]) if self.scores else None


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    label_ids: Mapping[str, Sequence[int]],
    end_ids: frozenset[int],
    max_new_tokens: int,
    batch_size: int,
    separator: str | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> list[Answer]:
    """Answer prompts greedily in batches of like length, and score the labels from the same pass over the prompt.

    Args:
        model: A causal language model in evaluation mode, with or without an adapter.
        tokenizer: Its tokenizer.
        prompts: Token ids of each prompt.
        label_ids: Token ids of each allowed label, its end token last; empty where any text is allowed.
        end_ids: Ids that end an answer.
        max_new_tokens: Longest answer, in tokens.
        batch_size: Prompts at once.
        separator: What stands between labels where an answer may hold several; they are then read, but not scored.
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
            batch = _answer_batch(
                model, tokenizer, [prompts[place] for place in places], label_ids, end_ids, max_new_tokens, separator
            )
            answers.update(zip(places, batch, strict=True))
            if on_batch is not None:
                on_batch(len(places))
    return [answers[place] for place in range(len(prompts))]


def match_label(text: str, labels: Sequence[str]) -> str | None:
    """Return the label that a text is, up to case and to punctuation and blanks around it.

    Of labels that differ in punctuation alone, such as `C` and `C++`, it is the longest that the text holds.
    """
    said = text.casefold()
    alike = [label for label in labels if _bare(label.casefold()) == _bare(said)]
    held = [label for label in alike if label.casefold() in said]
    if held:
        return max(held, key=len)
    return alike[0] if len(alike) == 1 and _bare(said) else None


def match_labels(text: str, labels: Sequence[str], separator: str) -> tuple[str, ...] | None:
    """Return the labels that a text lists, in the order of `labels`; None if it lists anything else."""
    found = [match_label(piece, labels) for piece in text.split(separator) if piece.strip()]
    return None if None in found else tuple(label for label in labels if label in found)


def _bare(text: str) -> str:
    return text.strip(_PUNCTUATION)


def _answer_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    label_ids: Mapping[str, Sequence[int]],
    end_ids: frozenset[int],
    max_new_tokens: int,
    separator: str | None,
) -> list[Answer]:
    pad = int(tokenizer.pad_token_id)
    step, logits = Stepper.read(model, prompts, pad)  # [rows, vocabulary], float32
    scores = {label: _score(step, logits, ids) for label, ids in label_ids.items()} if separator is None else {}
    generated = _generate(step, logits, end_ids, max_new_tokens)
    texts = [text.strip() for text in tokenizer.batch_decode(generated, skip_special_tokens=True)]
    if separator is not None:
        return [Answer(text, labels=match_labels(text, list(label_ids), separator)) for text in texts]
    return [
        Answer(
            text,
            match_label(text, list(label_ids)) if label_ids else None,
            {label: round(float(values[row]), 4) for label, values in scores.items()},
        )
        for row, text in enumerate(texts)
    ]


def _score(step: Stepper, logits: torch.Tensor, label: Sequence[int]) -> torch.Tensor:
    """Return the log-likelihood of a label's tokens for each row, [rows]."""
    total = logits.log_softmax(-1)[:, label[0]]
    fork = step.fork()
    for token, following in itertools.pairwise(label):
        logits = fork(logits.new_full((len(logits), 1), token).long())
        total = total + logits.log_softmax(-1)[:, following]
    return total


def _generate(step: Stepper, logits: torch.Tensor, end_ids: frozenset[int], max_new_tokens: int) -> list[list[int]]:
    """Take the likeliest token again and again, until every row has ended."""
    rows: list[list[int]] = [[] for _ in range(len(logits))]
    running = set(range(len(rows)))
    for count in range(max_new_tokens):
        tokens = logits.argmax(-1)
        for row in sorted(running):
            token = int(tokens[row])
            if token in end_ids:
                running.discard(row)
            else:
                rows[row].append(token)
        if not running or count + 1 == max_new_tokens:
            break
        logits = step(tokens[:, None])
    return rows
