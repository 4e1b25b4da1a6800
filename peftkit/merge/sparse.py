"""Merging dense changes after most of their entries were dropped: by sign (TIES), at random (DARE), or by magnitude."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Weighted = Iterable[tuple[float, "torch.Tensor"]]
"""Weights and changes, float32 of one shape; each change is looked at once."""


def ties(changes: Weighted, density: float, seed: int = 0) -> torch.Tensor:
    """Trim, elect signs, and merge what agrees (TIES, arXiv 2306.01708).

    Of each change the largest entries are kept. An entry's sign is that of the weighted sum, and its value the mean of
    the weighted entries of that sign; the paper's factor lambda is part of the weights.

    Args:
        changes: What is merged.
        density: Share of the entries that are kept of each change.
        seed: Not used: nothing is drawn.
    """
    import torch

    trimmed = [weight * keep_largest(change, density) for weight, change in changes]
    sign = torch.stack(trimmed).sum(0).sign()
    total = torch.zeros_like(sign)
    count = torch.zeros_like(sign)
    for one in trimmed:
        agrees = (one.sign() == sign) & (sign != 0)
        total += torch.where(agrees, one, 0)
        count += agrees
    return total / count.clamp(min=1)


def dare(changes: Weighted, density: float, seed: int) -> torch.Tensor:
    """Drop entries at random, rescale the others by 1 / density, and add (DARE, arXiv 2311.03099).

    Args:
        changes: What is merged.
        density: Chance of an entry to be kept.
        seed: Of the draws; those of each change differ.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    total: torch.Tensor | None = None
    for weight, change in changes:
        kept = torch.rand(change.shape, generator=generator) < density
        part = torch.where(kept, change, 0) * (weight / density)
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


def magnitude_prune(changes: Weighted, density: float, seed: int = 0) -> torch.Tensor:
    """Keep the largest entries of each change, and add.

    Args:
        changes: What is merged.
        density: Share of the entries that are kept of each change.
        seed: Not used: nothing is drawn.
    """
    total: torch.Tensor | None = None
    for weight, change in changes:
        part = weight * keep_largest(change, density)
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


def keep_largest(change: torch.Tensor, density: float) -> torch.Tensor:
    """Set all but a share of the entries to zero, those of least magnitude; entries as large as the least kept stay."""
    import torch

    size = change.abs()
    dropped = change.numel() - max(1, int(density * change.numel()))
    if not dropped:
        return change
    least = size.flatten().kthvalue(dropped + 1).values
    return torch.where(size >= least, change, 0)


def seed_of(seed: int, module: str) -> int:
    """Return a seed for one module, which depends on no other module."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{module}".encode()).digest()[:7])


SPARSE: Mapping[str, Callable[[Weighted, float, int], torch.Tensor]] = {
    "ties": ties,
    "dare": dare,
    "magnitude_prune": magnitude_prune,
}
