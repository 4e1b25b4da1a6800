"""A LoRA layer as one operation: only its input and the product with A are kept, and the sum is rounded once.

PEFT's own forward pass makes four tensors of the size of its output (a copy of the base layer's, the product with B,
that times the scaling, the sum); here there is one. The gradients are those of Hu et al. 2021 (arXiv 2106.09685),
`y = W x + s B A x`, written out:

    dB = s dy^T (x A^T)      dA = s (dy B)^T x      dx = dy W + s (dy B) A
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional


class FusedLora:
    """Runs one LoRA layer of PEFT; set as the layer's `forward`, and taken away by `undo`.

    What a layer is asked for beside training with its one adapter (no adapter, several, another one for each row), and
    inputs in another dtype than the adapter's outside of autocast, PEFT's own forward pass does.

    Args:
        layer: A layer that `complaint` finds nothing wrong with.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.own = layer.forward
        self.adapter: str = layer.active_adapters[0]
        self.dense: torch.Tensor | None = None  # the base layer's weights, while `held` holds them
        layer.forward = self

    def undo(self) -> None:
        """Give the layer its own forward pass back."""
        del self.layer.forward

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the layer's output, [..., out_features], for an input [..., in_features]."""
        layer, dtype = self.layer, computes_in(x)
        first = layer.lora_A[self.adapter].weight
        plain = layer.disable_adapters or layer.merged or list(layer.active_adapters) != [self.adapter]
        if plain or args or kwargs or (dtype is None and x.dtype != first.dtype):
            answer: torch.Tensor = self.own(x, *args, **kwargs)
            return answer
        dropout = layer.lora_dropout[self.adapter]
        share = dropout.p if isinstance(dropout, torch.nn.Dropout) and dropout.training else 0.0
        second, scaling = layer.lora_B[self.adapter].weight, layer.scaling[self.adapter]
        answer = _Fused.apply(  # type: ignore[no-untyped-call]
            x, first, second, scaling, share, dtype or x.dtype, self
        )
        return answer

    def base(self, x: torch.Tensor) -> torch.Tensor:
        """Return the base layer's output as a tensor of its own."""
        if self.dense is None:
            output: torch.Tensor = self.layer.base_layer(x)
            return output
        return functional.linear(x.to(self.dense.dtype), self.dense, _bias(self.layer.base_layer, self.dense.dtype))

    @property
    def has_weights(self) -> bool:
        """Whether the base layer is nothing but a product with weights, dequantized where they are of 4 bits.

        Not so are int8 layers, which have a kernel of their own, and those that somebody watches or changes by hooks.
        """
        base = self.layer.base_layer
        return bool(base.weight.dtype != torch.int8) and not (base._forward_hooks or base._forward_pre_hooks)

    def weight(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the base layer's weights, [out_features, in_features]."""
        return dequantized(self.layer.base_layer, dtype) if self.dense is None else self.dense


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        first: torch.Tensor,
        second: torch.Tensor,
        scaling: float,
        share: float,
        dtype: torch.dtype,
        fused: FusedLora,
    ) -> torch.Tensor:
        """Compute in `dtype`; `first` is A, [r, in_features], `second` is B, [out_features, r]."""
        given, kept = x.to(dtype), None
        if share:
            given, kept = torch.native_dropout(given, share, True)
        low = functional.linear(given, first.to(dtype))
        if x.dtype == dtype and fused.has_weights:
            # The update first: added to a product of 16 bits it is lost where it is below half of its last digit.
            output = torch.mm(low.flatten(0, -2) * scaling, second.to(dtype).t())
            output.addmm_(x.flatten(0, -2), fused.weight(dtype).t())
            if (bias := _bias(fused.layer.base_layer, dtype)) is not None:
                output += bias
            output = output.view(*x.shape[:-1], -1)
        else:
            output = fused.base(x)
            _add_product(output, low, second.to(dtype).t(), scaling)
        ctx.save_for_backward(x, low, first, second, kept)
        ctx.scaling, ctx.share, ctx.dtype, ctx.fused = scaling, share, dtype, fused
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, low, first, second, kept = ctx.saved_tensors
        above = gradients[0].to(ctx.dtype).flatten(0, -2)
        through = torch.mm(above, second.to(ctx.dtype)).mul_(ctx.scaling)  # [tokens, r]
        wants_x, wants_first, wants_second = ctx.needs_input_grad[:3]
        below = to_first = to_second = None
        if wants_second:
            to_second = torch.mm(above.t(), low.flatten(0, -2)).mul_(ctx.scaling).to(second.dtype)
        if wants_first:
            given = x.to(ctx.dtype)
            if kept is not None:
                given = given * kept / (1 - ctx.share)
            to_first = torch.mm(through.t(), given.flatten(0, -2)).to(first.dtype)
            del given
        if wants_x:
            below = torch.mm(through, first.to(ctx.dtype))
            if kept is not None:
                below.mul_(kept.view(below.shape)).div_(1 - ctx.share)
            below = below.addmm_(above, ctx.fused.weight(ctx.dtype)).view(x.shape).to(x.dtype)
        return below, to_first, to_second, None, None, None, None


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: float) -> None:
    """Add `scale * left @ right` to `total` in place; where the dtypes differ, through a tensor of its size."""
    flat, left = total.view(-1, total.shape[-1]), left.flatten(0, -2)
    if total.dtype == left.dtype:
        flat.addmm_(left, right, alpha=scale)
    else:
        flat.add_(torch.mm(left, right), alpha=scale)


def computes_in(x: torch.Tensor) -> torch.dtype | None:
    """Return what autocast computes in on the device of a tensor; None where it is off."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _bias(base: Any, dtype: torch.dtype) -> torch.Tensor | None:
    return None if base.bias is None else base.bias.to(dtype)


def dequantized(base: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return the weights of a linear layer, [out_features, in_features], whatever bitsandbytes holds them as."""
    weight = base.weight
    if (state := getattr(weight, "quant_state", None)) is not None:
        import bitsandbytes.functional as quantized

        dense: torch.Tensor = quantized.dequantize_4bit(weight, state).to(dtype)
        return dense
    if weight.dtype == torch.int8:
        values, scales = (base.state.CB, base.state.SCB) if base.state.CB is not None else (weight.CB, weight.SCB)
        dense = values.to(dtype, copy=True).mul_(scales.unsqueeze(1).mul(1.0 / 127.0))
        return dense
    dense = weight.to(dtype)
    return dense


@contextmanager
def held(fused: Sequence[FusedLora], dtype: torch.dtype) -> Iterator[None]:
    """Hold the dequantized weights of 4-bit layers inside, for several products with each."""
    for one in fused:
        if getattr(one.layer.base_layer.weight, "quant_state", None) is not None:
            one.dense = dequantized(one.layer.base_layer, dtype)
    try:
        yield
    finally:
        for one in fused:
            one.dense = None


def complaint(layer: Any) -> str | None:
    """Return why a LoRA layer of PEFT cannot be run as one operation; None where it can."""
    import bitsandbytes
    from peft.tuners.lora import Linear
    from peft.tuners.lora.bnb import Linear4bit, Linear8bitLt

    if len(layer.active_adapters) != 1:
        return "it has not exactly one active adapter"
    name = layer.active_adapters[0]
    if name in layer.lora_variant:
        return f"it is a variant of LoRA, {type(layer.lora_variant[name]).__name__.removesuffix('LinearVariant')}"
    bases = (torch.nn.Linear, bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    if type(layer) not in (Linear, Linear4bit, Linear8bitLt) or type(layer.base_layer) not in bases:
        return f"it is {type(layer).__name__} on {type(layer.base_layer).__name__}"
    if layer.lora_B[name].bias is not None:
        return "its update has a bias"
    return None
