"""The dtypes that an adapter can be stored in, and how little of its change each of them loses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftkit.adapter.int8_file import to_int8
from peftkit.merge.lora_file import Change
from peftkit.merge.low_rank import Factors

if TYPE_CHECKING:
    import torch

DTYPES = {"float32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp8": "float8_e4m3fn", "int8": "float32"}
"""torch's name of the dtype of the factors for each of ours; int8 is packed where it is written."""
_LARGEST = 16.0
"""Bound of the values of a float of few bits: far from the smallest that e4m3 and fp16 hold in full precision (2^-6 and
2^-14), and small enough that no product overflows where a server computes in fp16."""


def stored(change: Change, dtype: str) -> Change:
    """Return a change as a file of that dtype holds it.

    Where a dtype has a narrow range, powers of two move between the rows of A, the columns of B and the scale, which
    changes the product by nothing: the values then use the range well.

    Args:
        change: A change with float32 factors.
        dtype: One of `DTYPES`.
    """
    import torch

    if dtype == "int8":
        change = _even_columns(change)
        a, b = (_rounded_to_int8(one) for one in (change.factors.a, change.factors.b))
    else:
        change = _in_range(change) if dtype in ("fp16", "fp8") else change
        kept = getattr(torch, DTYPES[dtype])
        a, b = change.factors.a.to(kept), change.factors.b.to(kept)
    return Change(Factors(b, a), change.scale, change.embedding)


def stored_whole(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    """Return a tensor of a module that is saved as a whole: for float32 as it is, else bfloat16, whose range fits."""
    import torch

    return tensor if dtype == "float32" else tensor.to(torch.bfloat16)


def _in_range(change: Change) -> Change:
    import torch

    a, b = change.factors.a, change.factors.b
    up = _exponents(a.abs().amax(dim=1))
    a, b = torch.ldexp(a, up[:, None]), torch.ldexp(b, -up)
    whole = _exponents(b.abs().amax())
    return Change(Factors(torch.ldexp(b, whole), a), change.scale * 2.0 ** -int(whole), change.embedding)


def _even_columns(change: Change) -> Change:
    """Give the columns of B like magnitudes: a row of B has one scale, and a row of A one of its own."""
    import torch

    a, b = change.factors.a, change.factors.b
    up = _exponents(b.abs().amax(dim=0))
    return Change(Factors(torch.ldexp(b, up), torch.ldexp(a, -up[:, None])), change.scale, change.embedding)


def _exponents(largest: torch.Tensor) -> torch.Tensor:
    """Return the powers of two that bring magnitudes to between half of `_LARGEST` and all of it; 0 for zero."""
    import torch

    exact = torch.floor(torch.log2(_LARGEST / largest.double()))
    return torch.where(largest > 0, exact, 0).to(torch.int32)


def _rounded_to_int8(tensor: torch.Tensor) -> torch.Tensor:
    values, scale = to_int8(tensor)
    return values.float() * scale[:, None]
