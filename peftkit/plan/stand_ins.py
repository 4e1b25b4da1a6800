"""What stands in for a device that is not here, so that a training step runs on the meta device.

Nothing is computed there: what depends on values is answered from what the batch is known to hold, and what asks for
the kind of device is answered with the one that is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from peftkit.data.examples import IGNORED
from peftkit.plan.autocast import Surroundings
from peftkit.plan.offload import STASH, MovedActivations
from peftkit.plan.remembered import Remembered


@dataclass
class Answers:
    """Runs operations on the meta device, and answers what depends on values.

    Attributes:
        trained: Positions of a batch that are trained, over all rows.
        columns: Positions at which some row is trained.
        masked: Whether a batch has padding, or several rows packed into one, so that attention needs a mask.
    """

    trained: int
    columns: int
    masked: bool

    @classmethod
    def of(cls, batches: Sequence[Mapping[str, Any]], masked: bool) -> Answers:
        """Return what is true of the fullest of some batches."""
        following = [one["labels"][:, 1:] != IGNORED for one in batches if one["labels"].ndim == 2]
        trained = max((int(one.sum()) for one in following), default=0)
        columns = max((int(one.any(0).sum()) for one in following), default=0)
        return cls(trained, columns, masked)

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation."""
        answer = _ANSWERS.get(func.name())
        if answer is not None and any(isinstance(one, torch.Tensor) and one.is_meta for one in _flat(args)):
            given = answer(self, *args, **kwargs)
            if given is not NotImplemented:
                return given
        return _REMEMBERED(func, args, kwargs)

    def _value(self, tensor: torch.Tensor) -> Any:
        if tensor.dtype == torch.bool:
            return not self.masked
        return 1.0 if tensor.is_floating_point() else 1

    def _index(self, tensor: torch.Tensor, indices: list[torch.Tensor | None]) -> Any:
        masks = [one for one in indices if one is not None]
        if len(masks) != 1 or masks[0].dtype != torch.bool or indices[0] is None:
            return NotImplemented
        return tensor.new_empty((self._count(masks[0]), *tensor.shape[masks[0].ndim :]))

    def _index_put(
        self, tensor: torch.Tensor, indices: list[torch.Tensor | None], values: torch.Tensor, *more: Any
    ) -> Any:
        if not any(one is not None and one.dtype == torch.bool for one in indices):
            return NotImplemented
        return torch.empty_like(tensor)

    def _index_put_(
        self, tensor: torch.Tensor, indices: list[torch.Tensor | None], values: torch.Tensor, *more: Any
    ) -> Any:
        if not any(one is not None and one.dtype == torch.bool for one in indices):
            return NotImplemented
        return tensor

    def _nonzero(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.new_empty((self._count(tensor), tensor.ndim), dtype=torch.int64)

    def _masked_select(self, tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return tensor.new_empty((self._count(mask),))

    def _count(self, mask: torch.Tensor) -> int:
        return min(self.columns if mask.ndim == 1 else self.trained, mask.numel())

    def _copy(self, tensor: torch.Tensor, **named: Any) -> torch.Tensor:
        """Copy to another dtype; what would go to another device stays here, where the whole step is."""
        copied: torch.Tensor = torch.ops.aten._to_copy.default(tensor, **{**named, "device": tensor.device})
        return copied

    def _int8_rows(self, tensor: torch.Tensor, threshold: float = 0.0) -> Any:
        rows = tensor.numel() // tensor.shape[-1]
        outliers = tensor.new_empty((0,), dtype=torch.int64) if threshold else None
        return (
            tensor.new_empty(tensor.shape, dtype=torch.int8),
            tensor.new_empty((rows,), dtype=torch.float32),
            outliers,
        )

    def _int8_product(
        self, a: torch.Tensor, ca: torch.Tensor, cb: torch.Tensor, *more: Any, **named: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return a.new_empty((*ca.shape[:-1], cb.shape[0])), a.new_empty((0,))


_REMEMBERED = Remembered()
_ANSWERS: dict[str, Callable[..., Any]] = {
    "aten::_local_scalar_dense": Answers._value,
    "aten::_to_copy": Answers._copy,
    "aten::index.Tensor": Answers._index,
    "aten::index_put": Answers._index_put,
    "aten::index_put_": Answers._index_put_,
    "aten::_index_put_impl_": Answers._index_put_,
    "aten::nonzero": Answers._nonzero,
    "aten::masked_select": Answers._masked_select,
    "bitsandbytes::int8_vectorwise_quant": Answers._int8_rows,
    "bitsandbytes::int8_mixed_scaled_mm": Answers._int8_product,
}


def _flat(values: tuple[Any, ...]) -> Iterator[Any]:
    for one in values:
        yield from one if isinstance(one, list | tuple) else (one,)


class _NoKernel:
    """A Triton kernel that does nothing: it works in memory that is there already."""

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return _nothing


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


@contextmanager
def meant_device(device: str, dtype: torch.dtype | None) -> Iterator[Surroundings]:
    """Let libraries that see meta tensors do what they do on another device.

    Args:
        device: `cuda` or `cpu`.
        dtype: What autocast computes in; None for none.
    """
    import bitsandbytes
    import transformers.modeling_utils
    import trl.kernels.chunked_logprob as head
    import trl.trainer.sft_trainer
    from bitsandbytes.autograd import _functions

    import peftkit.kernels.install
    import peftkit.kernels.loss_head
    import peftkit.kernels.tiles
    import peftkit.kernels.varlen
    import peftkit.train.trainer

    surroundings = Surroundings(device, dtype)
    on_gpu = device == "cuda"

    def int8_product(
        a: torch.Tensor, b: torch.Tensor, out: Any = None, state: Any = None, threshold: float = 0.0, bias: Any = None
    ) -> Any:
        state.threshold = threshold or state.threshold
        kind = _functions.MatMul8bitFp if state.is_training and not on_gpu else _functions.MatMul8bitLt
        return kind.apply(a, b, out, bias, state)

    asked, asked_dtype = torch.is_autocast_enabled, torch.get_autocast_dtype

    def enabled(device_type: str | None = None) -> bool:
        if device_type == "meta" or (device_type is None and on_gpu):
            return surroundings.enabled and dtype is not None
        return asked(device_type) if device_type else asked()

    with ExitStack() as stack:
        for owner, name, stand_in in (
            (bitsandbytes, "matmul", int8_product),
            (peftkit.train.trainer, "_compiles_nothing", lambda device: True),
            (peftkit.kernels.install, "device_of", lambda model: device),
            (peftkit.kernels.loss_head, "is_processor", lambda _: not on_gpu),
            (peftkit.kernels.varlen, "is_processor", lambda _: not on_gpu),
            (peftkit.kernels.tiles, "as_now", lambda hidden: surroundings.again),
            (head, "_use_triton", lambda device: on_gpu),
            (torch, "is_autocast_enabled", enabled),
            (torch, "get_autocast_dtype", lambda kind: dtype if kind == "meta" else asked_dtype(kind)),
        ):
            stack.enter_context(_replaced(owner, name, stand_in))
        if on_gpu:
            memory = surroundings.main_memory
            for owner, name, mover in (
                (transformers.modeling_utils, "save_on_cpu", lambda **given: MovedActivations(memory)),
                (
                    trl.trainer.sft_trainer,
                    "get_act_offloading_ctx_manager",
                    lambda model: MovedActivations(memory, STASH),
                ),
            ):
                stack.enter_context(_replaced(owner, name, mover))
            for owner, name in _triton_kernels_of_liger():
                stack.enter_context(_replaced(owner, name, _NoKernel()))
            kernels: dict[str, Any] = {"_forward_kernel": _NoKernel(), "_backward_kernel": _NoKernel()}
            for name, kernel in {**kernels, "_addmm_fp32": _nothing, "triton": _Triton}.items():
                stack.enter_context(_replaced(head, name, kernel))
        stack.enter_context(surroundings)
        yield surroundings


def _triton_kernels_of_liger() -> Iterator[tuple[Any, str]]:
    """Yield where Liger, if it is here, keeps kernels that it calls: around them it makes the tensors that it keeps."""
    if find_spec("liger_kernel") is None:
        return
    for name in ("geglu", "rms_norm", "rope", "swiglu"):
        owner = import_module(f"liger_kernel.ops.{name}")
        for kernel, one in list(vars(owner).items()):
            if type(one).__module__.startswith("triton.runtime"):
                yield owner, kernel


@contextmanager
def _replaced(owner: Any, name: str, stand_in: Any) -> Iterator[None]:
    held = vars(owner).get(name, _ABSENT)
    setattr(owner, name, stand_in)
    try:
        yield
    finally:
        if held is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, held)


_ABSENT = object()


class _Triton:
    @staticmethod
    def cdiv(a: int, b: int) -> int:
        return -(-a // b)
