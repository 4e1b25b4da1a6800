"""The weights that training saw: quantized as bitsandbytes holds them and dequantized again, a few rows at a time.

4-bit kinds (arXiv 2305.14314) share one scale among 64 values, and these scales are quantized once more with one offset
for the whole tensor; so the scales of all rows are found first, and rows are made from them. int8 (arXiv 2208.07339)
has one scale a row. All of it goes through bitsandbytes' own functions, so the values are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from peftkit.merge.places import meta_model

if TYPE_CHECKING:
    import torch

    from peftkit.adapter.passport import Passport
    from peftkit.config import ModelConfig

_VALUES = 64
"""Values that share a scale in 4-bit kinds, bitsandbytes' default."""
_SCALES = 256
"""Scales that share one when they are quantized in their turn."""

Rows = Callable[[int, int], "torch.Tensor"]
"""Gives rows of a weight, by the first one's number and how many, as they are stored."""


class Held:
    """One weight as it was held in training.

    Args:
        rows: Gives rows of the stored weight.
        shape: How many rows and columns it has.
        kind: `nf4`, `fp4` or `int8`.
        dtype: What unquantized weights were held in, and dequantized ones computed in.
        block: Most values to look at in one go.
    """

    def __init__(self, rows: Rows, shape: tuple[int, int], kind: str, dtype: torch.dtype, block: int) -> None:
        self._rows = rows
        self._kind = kind
        self._dtype = dtype
        self._shape = shape
        self._scales = None if kind == "int8" else self._all_scales(block)

    def rows(self, first: int, count: int) -> torch.Tensor:
        """Return rows as training saw them, shape (count, columns), in the dtype of computation.

        Args:
            first: Number of the first one, a multiple of 64: values that share a scale are needed together.
            count: How many; a multiple of 64, or all that are left.
        """
        from bitsandbytes import functional

        weight = self._rows(first, count)
        if self._scales is None:
            import torch

            codes, scales, _ = functional.int8_vectorwise_quant(weight.to(torch.float16))
            held: torch.Tensor = functional.int8_vectorwise_dequant(codes, scales).to(self._dtype)
            return held
        packed, state = self._quantized(weight)
        begin = first * self._shape[1] // _VALUES
        state.absmax = self._scales[begin : begin + len(state.absmax)]
        held = functional.dequantize_4bit(packed, state)
        return held

    def _quantized(self, weight: torch.Tensor) -> tuple[torch.Tensor, Any]:
        from bitsandbytes import functional

        packed, state = functional.quantize_4bit(
            weight.to(self._dtype), blocksize=_VALUES, compress_statistics=False, quant_type=self._kind
        )
        return packed, state

    def _all_scales(self, block: int) -> torch.Tensor:
        import torch
        from bitsandbytes import functional

        count = max(_VALUES, block // self._shape[1] // _VALUES * _VALUES)
        pieces = [
            self._quantized(self._rows(first, min(count, self._shape[0] - first)))[1].absmax
            for first in range(0, self._shape[0], count)
        ]
        scales = torch.cat(pieces)
        offset = scales.mean()
        codes, state = functional.quantize_blockwise(scales - offset, blocksize=_SCALES)
        restored: torch.Tensor = functional.dequantize_blockwise(codes, state) + offset
        return restored


def trained_dtype(passport: Passport) -> torch.dtype:
    """Return what the base of an adapter computed in while it was trained."""
    import torch

    dtype = getattr(torch, passport.base.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype


def quantized_layers(
    model_class: Any, settings: Any, config: ModelConfig, dtype: torch.dtype, *, head: bool
) -> set[str]:
    """Name the layers whose weights are quantized when a model is loaded for training: most linear ones.

    Args:
        model_class: The model's class, as for `meta_model`.
        settings: The model's configuration.
        config: The settings that it was trained with.
        dtype: What it computed in.
        head: Whether it has a head, whose parts are never quantized.
    """
    from bitsandbytes.nn import Linear4bit, Linear8bitLt
    from transformers.quantizers import AutoHfQuantizer

    from peftkit.model.head import UNQUANTIZED
    from peftkit.model.quantize import quantization_config

    model = meta_model(model_class, settings)
    wanted = quantization_config(config, dtype, UNQUANTIZED if head else None)
    quantizer = AutoHfQuantizer.from_config(wanted, pre_quantized=False)
    quantizer.preprocess_model(model=model, dtype=dtype, device_map={"": "cpu"})
    return set(_names(model, (Linear4bit, Linear8bitLt)))


def _names(model: Any, kinds: tuple[type, ...]) -> Iterator[str]:
    return (name for name, module in model.named_modules() if isinstance(module, kinds))
