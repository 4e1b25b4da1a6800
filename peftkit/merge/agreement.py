"""How far two models agree on the same texts: divergence, the likeliest answer, and how surprised each is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftkit.data.examples import Example

if TYPE_CHECKING:
    import torch

    from peftkit.model.family import Family

MOST_POSITIONS = 1024
"""Positions whose distributions are compared; each is as wide as the vocabulary."""


@dataclass(frozen=True)
class Outputs:
    """What a model gives for examples.

    Attributes:
        log_probs: Shape (positions, classes), float32: of the next token, or of a head's labels. Of labels that do not
            exclude each other, (positions * labels, 2); of scores, the score itself, (positions, 1).
        nll: Sum of the negative log-likelihood of the trained tokens, in nats; 0 where nothing is written.
        tokens: How many these are.
    """

    log_probs: torch.Tensor
    nll: float
    tokens: int

    @property
    def perplexity(self) -> float | None:
        """exp of the mean negative log-likelihood of a trained token; None where there is none."""
        return math.exp(min(self.nll / self.tokens, 700.0)) if self.tokens else None


def outputs_of(model: Any, family: Family, examples: Sequence[Example], *, problem: str | None = None) -> Outputs:
    """Ask a model about examples, one at a time; distributions are kept of the first `MOST_POSITIONS` positions.

    Args:
        model: A model in evaluation mode.
        family: How it answers.
        examples: At least one.
        problem: transformers' `problem_type` of a head.
    """
    import torch

    pieces: list[torch.Tensor] = []
    nll, tokens, positions = 0.0, 0, 0
    with torch.inference_mode():
        for example in examples:
            logits, targets = _logits(model, family, example)
            found = _distributions(logits.float(), family, problem)
            if targets is not None:
                kept = targets >= 0
                nll -= float(found[kept].gather(1, targets[kept].unsqueeze(1)).sum())
                tokens += int(kept.sum())
            if room := MOST_POSITIONS - positions:
                pieces.append(found[-room:].cpu())
                positions += len(pieces[-1])
    return Outputs(torch.cat(pieces), nll, tokens)


def _logits(model: Any, family: Family, example: Example) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return an example's logits, shape (positions, classes), and the trained token of each (-100 for none)."""
    import torch

    def ids(values: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(values)], device=model.device)

    if family == "head":
        return model(input_ids=ids(example.prompt_ids)).logits, None
    if family == "seq2seq":
        labels = ids(example.completion_ids)
        return model(input_ids=ids(example.prompt_ids), labels=labels).logits[0], labels[0]
    logits = model(input_ids=ids(example.prompt_ids + example.completion_ids)).logits[0]
    count = len(example.prompt_ids) + len(example.completion_ids)
    targets = ids([-100] * len(example.prompt_ids) + list(example.trained_ids))[0]
    return logits[-count:-1], targets[1:]


def _distributions(logits: torch.Tensor, family: Family, problem: str | None) -> torch.Tensor:
    import torch
    from torch.nn.functional import logsigmoid

    if family != "head" or problem == "single_label_classification":
        return logits.log_softmax(-1)
    if problem == "multi_label_classification":
        return torch.stack((logsigmoid(logits), logsigmoid(-logits)), -1).flatten(0, 1)
    return logits


def agreement(live: Outputs, merged: Outputs) -> dict[str, Any]:
    """Compare two models' outputs for the same examples.

    Returns:
        `positions`; `kl`, the mean of KL(live || merged) in nats, and `kl_max`; `top1`, the share of positions where
        both find the same likeliest; `perplexity` of both. For scores `difference`, the largest one in standard units,
        in place of the divergence.
    """
    one, other = live.log_probs, merged.log_probs
    result: dict[str, Any] = {"positions": len(one)}
    if one.shape[1] == 1:
        return result | {"kl": None, "top1": None, "difference": float((one - other).abs().max())}
    divergence = (one.double().exp() * (one.double() - other.double())).sum(1).clamp(min=0)
    return result | {
        "kl": float(divergence.mean()),
        "kl_max": float(divergence.max()),
        "top1": float((one.argmax(1) == other.argmax(1)).double().mean()),
        "perplexity": {"live": live.perplexity, "merged": merged.perplexity},
    }
