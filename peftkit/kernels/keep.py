"""Recomputed layers that keep what attention gives: at long lengths it is what takes longest to compute twice.

Torch's selective checkpointing keeps the outputs of the operations that a policy names, and computes the others again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

OPERATIONS = (
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "torch_attn::_varlen_attn",
)
"""Torch's own, for rows and for packed texts."""
KERNEL = "flash_attn"
"""What the operations of attention kernels from elsewhere have in their names."""
UNKNOWN = ("eager", "flex_attention")
"""Implementations of transformers whose attention is not one operation that could be kept."""


def keeping_attention(checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Return a checkpoint function, one that is not reentrant, which keeps attention's outputs."""
    return partial(checkpoint, context_fn=partial(create_selective_checkpoint_contexts, _policy))


def _policy(context: Any, operation: torch._ops.OpOverload, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    name = operation.name().removesuffix(".default")  # type: ignore[no-untyped-call]
    keeps = name in OPERATIONS or KERNEL in name
    return CheckpointPolicy.MUST_SAVE if keeps else CheckpointPolicy.PREFER_RECOMPUTE
