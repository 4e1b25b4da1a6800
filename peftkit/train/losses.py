"""Losses as plain functions of tensors: one value per trained token, label or score, and their weighted mean.

All but the smoothed one need a label's log-probability alone, so that a model that writes keeps TRL's fused head, which
gives log-probabilities and no logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from peftkit.config import TrainConfig


def log_prob(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return each label's log-probability in float32, [...]; `logits` are [..., classes].

    A label below zero is none: what is returned for it means nothing.
    """
    picked = functional.log_softmax(logits.float(), dim=-1).gather(-1, labels.clamp(min=0)[..., None])
    return picked.squeeze(-1)


def cross_entropy(log_probs: torch.Tensor) -> torch.Tensor:
    """Return `-log p` of each label's log-probability."""
    return -log_probs


def dft(log_probs: torch.Tensor) -> torch.Tensor:
    """Return `-p log p`, with p taken as a constant: dynamic fine-tuning (arXiv 2508.05629)."""
    return -log_probs.exp().detach() * log_probs


def focal(log_probs: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return `-(1 - p)^gamma log p`: the focal loss (Lin et al. 2017, arXiv 1708.02002, equation 4).

    `1 - p` is kept above 1e-6: its power has no gradient at zero for a gamma below one.
    """
    return -((-torch.expm1(log_probs)).clamp(min=1e-6) ** gamma) * log_probs


def smoothed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Return `-(1 - s) log p[label] - s mean(log p)` (Szegedy et al. 2016, arXiv 1512.00567, section 7).

    `logits` are [..., classes], `labels` and the result [...]; a label below zero is none.
    """
    log_probs = functional.log_softmax(logits.float(), dim=-1)
    picked = log_probs.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    return -(1 - smoothing) * picked - smoothing * log_probs.mean(-1)


def softmax_loss(log_probs: torch.Tensor, name: str, config: TrainConfig) -> torch.Tensor:
    """Return the loss of that name for labels of which exactly one is right, from their log-probabilities."""
    if name == "focal":
        return focal(log_probs, config.focal_gamma)
    return dft(log_probs) if name == "dft" else cross_entropy(log_probs)


def label_loss(logits: torch.Tensor, labels: torch.Tensor, name: str, config: TrainConfig) -> torch.Tensor:
    """Return the loss of that name for labels of which exactly one is right, from logits [..., classes]."""
    if config.label_smoothing:
        return smoothed_cross_entropy(logits, labels, config.label_smoothing)
    return softmax_loss(log_prob(logits, labels), name, config)


def labels_loss(
    logits: torch.Tensor, targets: torch.Tensor, name: str, config: TrainConfig, positive: torch.Tensor
) -> torch.Tensor:
    """Return the mean over labels of which any number are right, [rows].

    Args:
        logits: One per row and label, [rows, labels].
        targets: 1 where the label is right, else 0; the same shape.
        name: `cross_entropy`, or `focal` in the binary form that its paper has.
        config: Holds the focal loss's gamma.
        positive: Weight of each label's terms where it is right, [labels].
    """
    logits = logits.float()
    log_probs = functional.logsigmoid(torch.where(targets > 0.5, logits, -logits))
    return (softmax_loss(log_probs, name, config) * torch.where(targets > 0.5, positive, 1.0)).mean(-1)


def score_loss(scores: torch.Tensor, targets: torch.Tensor, name: str, config: TrainConfig) -> torch.Tensor:
    """Return each score's squared (`mse`), absolute (`mae`) or Huber (1964) error, [rows]."""
    scores = scores.float()
    if name == "mse":
        return functional.mse_loss(scores, targets, reduction="none")
    if name == "mae":
        return functional.l1_loss(scores, targets, reduction="none")
    return functional.huber_loss(scores, targets, reduction="none", delta=config.huber_delta)


def mean_terms(losses: torch.Tensor, weights: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Return `weights * losses / total`, the terms of the weighted mean; a total of zero gives zeros.

    `total` is the sum of weights over the whole optimizer step, of which this may be a part: the parts' gradients then
    add up to those of one large batch.
    """
    return torch.where(weights > 0, weights * losses, 0.0) / total.clamp(min=1e-12)
