"""Automatic mixed precision on the meta device, which torch itself has none for: the same casts, made one level up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from peftkit.plan.attention import attend
from peftkit.plan.offload import MainMemory

_LOWER = frozenset(
    {
        *("linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "addmm", "addmm_", "addbmm", "baddbmm"),
        *("einsum", "multi_dot", "chain_matmul", "vecdot", "conv1d", "conv2d", "conv3d", "conv_transpose1d"),
        *("conv_transpose2d", "conv_transpose3d", "prelu", "scaled_dot_product_attention"),
    }
)
"""Operations that autocast computes in the lower precision, on a GPU and on a processor (torch's autocast_mode.h)."""

_LOSSES = ("nll_loss", "cross_entropy", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div")
_FLOAT: Mapping[str, frozenset[str]] = {
    "cuda": frozenset(
        {
            *("acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt"),
            *("sinh", "tan", "pow", "__pow__", "__rpow__", "softplus", "layer_norm", "group_norm", "norm", "cdist"),
            *("cosine_similarity", "dist", "renorm", "logsumexp", "cumprod", "cumsum", "prod", "sum", "softmax"),
            *("log_softmax", "binary_cross_entropy_with_logits", *_LOSSES),
        }
    ),
    "cpu": frozenset({"cdist", "binary_cross_entropy_with_logits", *_LOSSES}),
}
"""Operations that autocast computes in float32, by device."""


class Surroundings(TorchFunctionMode):
    """Does on the meta device what torch does on the device that is meant: autocast, attention kernels, dropout.

    Args:
        device: `cuda` or `cpu`.
        dtype: What autocast computes in; None for none.

    Attributes:
        main_memory: What was moved there.
    """

    def __init__(self, device: str, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.device, self.dtype = device, dtype
        self.enabled = False
        self.main_memory = MainMemory()
        self._cast: dict[int, torch.Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Cast what autocast casts, then run the operation."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if self.enabled and self.dtype is not None:
            if name in _LOWER:
                args, kwargs = _each(self._lower, (args, kwargs))
            elif name in _FLOAT[self.device] and kwargs.get("dtype") is None:
                args, kwargs = _each(_float, (args, kwargs))
        if name == "scaled_dot_product_attention":
            return attend(self.device, *args, **kwargs)
        if name == "dropout" and self.device == "cuda":
            return _dropout(func, *args, **kwargs)
        return func(*args, **kwargs)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Cast inside; weights that were cast are kept until the outermost of these ends, as torch keeps them."""
        before, self.enabled = self.enabled, True
        try:
            yield
        finally:
            self.enabled = before
            if not before:
                self._cast.clear()

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that runs in these surroundings and under autocast, also where it is run again."""

        def run(*args: Any, **kwargs: Any) -> Any:
            with self.again():
                return function(*args, **kwargs)

        return run

    @contextmanager
    def again(self) -> Iterator[None]:
        """Be in these surroundings once more, since torch takes this mode away from a backward pass."""
        with self, self.autocast():
            yield

    def _lower(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dtype == self.dtype:
            return value
        if value.dtype == torch.float64 or value.device.type != "meta":
            return value
        if not (value.is_leaf and value.requires_grad and value.dtype == torch.float32):
            return value.to(self.dtype)
        if id(value) not in self._cast:
            self._cast[id(value)] = value.to(self.dtype)
        return self._cast[id(value)]


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """Change each value in arguments; torch's own `tree_map` is slow for the number of them."""
    if isinstance(value, tuple):
        return tuple(_each(change, one) for one in value)
    if isinstance(value, list):
        return [_each(change, one) for one in value]
    if isinstance(value, dict):
        return {name: _each(change, one) for name, one in value.items()}
    return change(value)


def _float(value: Any) -> Any:
    half = isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value


def _dropout(func: Any, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Drop as a GPU does, in one kernel that keeps a mask of bytes; a processor keeps one of the values' dtype."""
    if inplace or not training or not 0 < p < 1:
        return func(input, p, training, inplace)
    return torch.native_dropout(input, p, training)[0]
