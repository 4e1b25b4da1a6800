"""Saved activations that are moved to main memory: on the meta device they are let go, and made anew when needed."""

from __future__ import annotations

import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

STASH = 5
"""Activations that TRL keeps on the GPU while they are copied, so that copying does not hold up the computation."""
_LEAST = 1024  # bytes: what is smaller, TRL leaves where it is


@dataclass
class MainMemory:
    """Bytes of activations in main memory: now, and at most."""

    live: int = 0
    peak: int = 0

    def hold(self, owner: object, size: int) -> None:
        """Count bytes for as long as their owner lives."""
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(owner, self._release, size)

    def _release(self, size: int) -> None:
        self.live -= size


@dataclass(eq=False)
class _Moved:
    """What is left of a tensor that was moved: how to make one like it."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


class MovedActivations(saved_tensors_hooks):
    """Moves what is saved for the backward pass to main memory; weights stay.

    Args:
        memory: Where it goes to.
        stash: How many of the latest stay on the GPU until others come.
    """

    def __init__(self, memory: MainMemory, stash: int = 0) -> None:
        kept: deque[torch.Tensor] = deque(maxlen=stash)

        def pack(tensor: torch.Tensor) -> Any:
            size = tensor.numel() * tensor.itemsize
            if not tensor.is_meta or size < _LEAST or isinstance(tensor, torch.nn.Parameter):
                return tensor
            moved = _Moved(tensor.shape, tensor.stride(), tensor.dtype)
            memory.hold(moved, size)
            kept.append(tensor)
            return moved

        def unpack(held: Any) -> torch.Tensor:
            kept.clear()
            if isinstance(held, _Moved):
                return torch.empty_strided(held.shape, held.stride, dtype=held.dtype, device="meta")
            tensor: torch.Tensor = held
            return tensor

        super().__init__(pack, unpack)
