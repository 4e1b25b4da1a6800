"""Attention over texts that are packed into one row, each by itself: without a mask of tokens x tokens.

Where torch has its kernel for texts of different lengths (`torch.nn.attention.varlen`: CUDA, 16 bits), that runs over
the whole row; elsewhere one call of torch's attention runs for each text. What is not packed is done as by `sdpa`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from peftkit.kernels.loss_head import is_processor

NAME = "varlen"
"""What `model.attn_implementation` takes for it."""

_HALF = (torch.float16, torch.bfloat16)
_LARGEST_HEAD = 256  # of the kernel


def register() -> None:
    """Make it known to transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, mask)


def mask(
    *,
    q_length: int,
    kv_length: int,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    **more: Any,
) -> torch.Tensor | None:
    """Return no mask where causal attention within each text is meant; a dense one as `sdpa` has it otherwise.

    That is where there is padding, a window, a cache, or a model's own rule of what sees what.
    """
    from transformers.masking_utils import sdpa_mask

    if attention_mask is None and local_size is None and not use_vmap and q_length == kv_length > 1:
        return None
    dense: torch.Tensor | None = sdpa_mask(
        q_length=q_length,
        kv_length=kv_length,
        attention_mask=attention_mask,
        local_size=local_size,
        use_vmap=use_vmap,
        **more,
    )
    return dense


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers asks it of an implementation.

    Args:
        module: The attention layer.
        query: [rows, heads, tokens, size of a head]; one row where texts are packed.
        key: The same, perhaps with fewer heads.
        value: As `key`.
        attention_mask: What `mask` returned.
        dropout: Share of the attention that is dropped.
        scaling: Of the products; None takes one over the root of the size of a head.
        is_causal: Whether a token sees only those before it; None takes that of the module.
        cu_seq_lens_q: int32 [texts + 1]: where each packed text begins, and the end; None where none are packed.
        max_length_q: Tokens of the longest packed text.
        more: What other models give to `sdpa`.

    Returns:
        [rows, tokens, heads, size of a head], and no weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    plain: Callable[..., tuple[torch.Tensor, None]] = sdpa_attention_forward
    if attention_mask is not None or cu_seq_lens_q is None:
        return plain(module, query, key, value, attention_mask, dropout, scaling, is_causal, **more)
    if max_length_q is not None and _has_kernel(query, value, dropout, more):
        if query.is_meta:  # it has no lengths to read; what the kernel keeps is what one long text keeps
            return plain(module, query, key, value, None, dropout, scaling, is_causal, **more)
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (one[0].transpose(0, 1) for one in (query, key, value))
        starts, longest = cu_seq_lens_q, max_length_q
        found = varlen_attn(
            q, k, v, starts, starts, longest, longest, scale=scaling, window_size=(-1, 0), enable_gqa=True
        )
        assert isinstance(found, torch.Tensor)
        return found[None], None
    lengths = _lengths(cu_seq_lens_q, query.shape[2])
    texts = zip(*(torch.split(one, lengths, dim=2) for one in (query, key, value)), strict=True)
    parts = [plain(module, *text, None, dropout, scaling, is_causal, **more)[0] for text in texts]
    return torch.cat(parts, dim=1), None


def _lengths(starts: torch.Tensor, tokens: int) -> list[int]:
    """Return the tokens of each text; on the meta device, which has none to read, two halves: they take the same."""
    if starts.is_meta:
        return [tokens // 2, tokens - tokens // 2]
    lengths: list[int] = starts.diff().tolist()
    return lengths


def _has_kernel(query: torch.Tensor, value: torch.Tensor, dropout: float, more: dict[str, Any]) -> bool:
    fits = query.dtype in _HALF and query.shape[-1] == value.shape[-1] <= _LARGEST_HEAD
    return not is_processor(query.device) and fits and not dropout and more.get("softcap") is None
