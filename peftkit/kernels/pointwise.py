"""A gated feed-forward layer that keeps two of its four wide tensors, and makes the others again when they are wanted.

Of `down(act(gate(x)) * up(x))` autograd keeps the outputs of `gate` and of `up`, of `act`, and the product, which the
LoRA of `down` has as its input. The last two are made from the first two by reading and writing them once, which takes
hardly any time beside the products of matrices.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from peftkit.kernels import tiles

FORMULA = "self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))"


class Gated:
    """Runs one feed-forward layer while gradients are computed; set as its `forward`, and taken away by `undo`.

    It is for layers that are not recomputed: there it would keep what a recomputation gives up.

    Args:
        layer: One that `is_gated`.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.own = layer.forward
        layer.forward = self

    def undo(self) -> None:
        """Give the layer its own forward pass back."""
        del self.layer.forward

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output, [..., hidden_size], for an input of the same shape."""
        layer = self.layer
        if not torch.is_grad_enabled():
            answer: torch.Tensor = self.own(x)
            return answer
        gate, up = layer.gate_proj(x), layer.up_proj(x)
        product = _Product.apply(gate, up, layer.act_fn)  # type: ignore[no-untyped-call]
        made = _Made(gate.detach(), up.detach(), layer.act_fn, tiles.as_now(x))
        with saved_tensors_hooks(_in_place_of(product, made), _unpack):
            answer = layer.down_proj(product)
        return answer


def _in_place_of(product: torch.Tensor, made: _Made) -> Callable[[torch.Tensor], Any]:
    """Return what keeps `made` in place of `product`; torch keeps this function, so it must not hold `product`."""
    place, shape = product.untyped_storage()._cdata, product.shape
    return lambda tensor: made if (tensor.untyped_storage()._cdata, tensor.shape) == (place, shape) else tensor


@dataclass
class _Made:
    """The product, as what it is made from."""

    gate: torch.Tensor
    up: torch.Tensor
    act: Callable[[torch.Tensor], torch.Tensor]
    again: Callable[[], Any]


def _unpack(held: Any) -> torch.Tensor:
    if isinstance(held, torch.Tensor):
        return held
    with torch.no_grad(), held.again():
        product: torch.Tensor = held.act(held.gate).mul(held.up)
    return product


class _Product(torch.autograd.Function):
    """`act(gate) * up`, of which `gate` and `up` are kept."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, act: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        ctx.save_for_backward(gate, up)
        ctx.act, ctx.again = act, tiles.as_now(gate)
        return act(gate) * up

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        gate, up = ctx.saved_tensors
        (above,) = gradients
        given = gate.detach().requires_grad_()
        with ctx.again(), torch.enable_grad():
            active = ctx.act(given)
        (to_gate,) = torch.autograd.grad(active, given, above * up)
        return to_gate, above * active.detach(), None


def is_gated(layer: torch.nn.Module) -> bool:
    """Whether a layer's forward pass is exactly `FORMULA`, by its source."""
    try:
        written = ast.parse(textwrap.dedent(inspect.getsource(type(layer).forward)))
    except (OSError, TypeError, SyntaxError):  # a class without source at hand
        return False
    (function,) = written.body
    assert isinstance(function, ast.FunctionDef)
    steps = [one for one in function.body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
    match steps:
        case [ast.Return(value=made)] if made is not None:
            return ast.unparse(made) == FORMULA
        case [ast.Assign(targets=[ast.Name(id=name)], value=made), ast.Return(value=ast.Name(id=returned))]:
            return name == returned and ast.unparse(made) == FORMULA
    return False
