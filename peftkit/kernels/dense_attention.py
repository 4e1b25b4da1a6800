"""Attention over short texts on a processor, as plain products of matrices.

torch's own kernel for processors goes through a text in small blocks; for texts of a few hundred tokens the products
of whole matrices are several times quicker in bfloat16. Nothing of the size of the attention is kept: the backward
pass computes the weights again from queries and keys.
"""

from __future__ import annotations

from typing import Any

import torch

from peftkit.kernels.lora_linear import computes_in

NAME = "dense"
"""Its name among transformers' implementations of attention; a run takes it by itself where it pays."""
LONGEST = 512
"""Tokens up to which it is taken."""


def register() -> None:
    """Make it known to transformers, with the masks of `sdpa`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers asks it of an implementation; what it is not made for, `sdpa` does.

    Args:
        module: The attention layer.
        query: [rows, heads, tokens, size of a head].
        key: The same, perhaps with fewer heads.
        value: As `key`.
        attention_mask: bool [rows or 1, 1, tokens, tokens], true where a token is seen; None for none but causality.
        dropout: Share of the attention that is dropped.
        scaling: Of the products; None takes one over the root of the size of a head.
        is_causal: Whether a token sees only those before it; None takes that of the module.
        more: What models give to `sdpa`.

    Returns:
        [rows, tokens, heads, size of a head], and no weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    dtype = computes_in(query) or query.dtype
    tokens = query.shape[2]
    plain_mask = attention_mask is None or (attention_mask.dtype == torch.bool and attention_mask.shape[1] == 1)
    if (
        dtype != torch.bfloat16
        or not 1 < tokens == key.shape[2] <= LONGEST
        or not plain_mask
        or dropout
        or any(more.get(name) is not None for name in ("position_bias", "cache", "softcap", "s_aux"))
    ):
        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **more
        )
        return plain
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    answer = _Dense.apply(  # type: ignore[no-untyped-call]
        query.to(dtype), key.to(dtype), value.to(dtype), attention_mask, attention_mask is None and causal, scaling
    )
    return answer.transpose(1, 2).contiguous(), None


class _Dense(torch.autograd.Function):
    """Heads that share keys are one matrix with as many rows as they have tokens together."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        seen: torch.Tensor | None,
        causal: bool,
        scaling: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(query, key, value, seen)
        ctx.causal, ctx.scaling = causal, scaling
        weights = _weights(query, key, seen, causal, scaling)
        answer: torch.Tensor = torch.bmm(weights, value.flatten(0, 1)).view(query.shape[:-1] + value.shape[-1:])
        return answer

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        query, key, value, seen = ctx.saved_tensors
        flat_key, flat_value = key.flatten(0, 1), value.flatten(0, 1)
        weights = _weights(query, key, seen, ctx.causal, ctx.scaling)
        above = gradients[0].reshape(len(flat_value), -1, value.shape[-1])
        to_value = torch.bmm(weights.mT, above).view(value.shape)
        inner = torch._softmax_backward_data(torch.bmm(above, flat_value.mT), weights, -1, weights.dtype)
        del weights
        inner.mul_(ctx.scaling)
        to_query = torch.bmm(inner, flat_key).view(query.shape)
        to_key = torch.bmm(inner.mT, query.reshape(len(flat_key), -1, key.shape[-1])).view(key.shape)
        return to_query, to_key, to_value, None, None, None


def _weights(
    query: torch.Tensor, key: torch.Tensor, seen: torch.Tensor | None, causal: bool, scaling: float
) -> torch.Tensor:
    """Return how much each token sees of the others, [rows * heads of keys, heads per key * tokens, tokens]."""
    rows, heads, tokens, size = query.shape
    flat = key.flatten(0, 1)
    scores = torch.bmm(query.reshape(len(flat), -1, size), flat.mT).mul_(scaling)
    never = torch.finfo(scores.dtype).min
    if causal:
        scores.view(rows, heads, tokens, -1).add_(scores.new_full((tokens, tokens), never).triu_(1))
    elif seen is not None:  # adding values is four times quicker than filling by a mask that all heads share
        added = scores.new_zeros(seen.shape).masked_fill_(~seen, never)
        scores.view(rows, heads, tokens, -1).add_(added)
    return scores.softmax(-1)
