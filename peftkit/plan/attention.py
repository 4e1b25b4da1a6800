"""Which attention kernel torch takes on a device, called on the meta device, where torch would take the slow one."""

from __future__ import annotations

import torch
from torch.nn import functional

_HALF = (torch.float16, torch.bfloat16)
_LARGEST_HEAD = 256  # of the flash kernels (torch's sdp_utils)


def attend(
    device: str,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Do what `scaled_dot_product_attention` does on a device, in the operations that it does it with.

    Args:
        device: `cuda` or `cpu`.
        query: [rows, heads, tokens, size of a head]; `key` and `value` have it too, perhaps with fewer heads.
        key: See `query`.
        value: See `query`.
        attn_mask: Bool or float, [rows or 1, heads or 1, tokens, tokens].
        dropout_p: Share of the attention that is dropped.
        is_causal: Whether a token sees only those before it.
        scale: Of the products; None takes one over the root of the size of a head.
        enable_gqa: Whether `key` and `value` may have fewer heads.
    """
    plain = query.ndim == 4 and query.shape[-1] == value.shape[-1]
    if device == "cpu" and plain and not dropout_p:
        mask = _as_values(attn_mask, query.dtype)
        answer: torch.Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, is_causal, attn_mask=mask, scale=scale
        )[0]
        return answer
    fits = plain and query.shape[-1] <= _LARGEST_HEAD and query.dtype in _HALF
    if device == "cuda" and fits and attn_mask is None:
        return _flash(query, key, value, dropout_p, is_causal, scale)
    if device == "cuda" and plain and not (enable_gqa and key.shape[1] != query.shape[1]):
        return _efficient(query, key, value, attn_mask, dropout_p, is_causal, scale)
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
) -> torch.Tensor:
    size = query.shape[-1]
    scale = size**-0.5 if scale is None else scale
    if short := -size % 8:  # the kernel wants heads in steps of eight
        query, key, value = (functional.pad(one, (0, short)) for one in (query, key, value))
    answer: torch.Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, dropout_p, is_causal, False, scale=scale
    )[0]
    return answer[..., :size]


def _efficient(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
) -> torch.Tensor:
    mask = _as_values(attn_mask, query.dtype)
    if mask is not None:
        tokens = mask.shape[-1]
        if short := -tokens % 16:  # rows of the mask are aligned
            mask = functional.pad(mask, (0, short))[..., :tokens]
        mask = mask.expand(query.shape[0], query.shape[1], query.shape[2], tokens)
    answer: torch.Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, query.requires_grad or key.requires_grad, dropout_p, is_causal, scale=scale
    )[0]
    return answer


def _as_values(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Return a mask as values that are added, as torch makes them of booleans before every kernel."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    zero, never = (torch.full((), one, dtype=dtype, device=mask.device) for one in (0.0, float("-inf")))
    return torch.where(mask, zero, never)
