"""Operations on the meta device that were seen before, answered without torch's slow Python kernels.

What an operation makes of tensors without values follows from their shapes, strides and dtypes. Layers of a model are
alike, and so are the traces of a plan: nearly all of their operations were seen before.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

_MOST = 1 << 17
"""Answers that are kept: more than the plan of a large model with all its changes has."""

Made = tuple[torch.Size, tuple[int, ...], torch.dtype]
"""Shape, strides and dtype of a tensor with a storage of its own."""


class Remembered:
    """Runs operations, and remembers what they make."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Made, ...] | None] = {}

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation, or make what it made before."""
        fresh = _makes(func)
        if fresh is None or (key := _key((func, fresh, args, tuple(kwargs.items())))) is None:
            return func(*args, **kwargs)
        if key not in self._known:
            result = func(*args, **kwargs)
            if len(self._known) < _MOST:
                self._known[key] = _description(result, args) if fresh else ()
            return result
        made = self._known[key]
        if made is None:
            return func(*args, **kwargs)
        if not fresh:
            return args[0]
        tensors = [torch.empty_strided(shape, strides, dtype=dtype, device="meta") for shape, strides, dtype in made]
        return tensors[0] if len(func._schema.returns) == 1 else tuple(tensors)


@functools.cache
def _makes(func: Any) -> bool | None:
    """Whether an operation makes all that it returns anew, or only changes its first argument; None for others."""
    given, returned = func._schema.arguments, func._schema.returns
    if not returned or any(str(one.type) != "Tensor" for one in returned):
        return None
    aliased = [place for place, one in enumerate(given) if one.alias_info is not None]
    if not aliased:
        return True if all(one.alias_info is None for one in returned) else None
    changes_first = aliased == [0] and given[0].alias_info.is_write and len(returned) == 1
    return False if changes_first and str(given[0].type) == "Tensor" and func.name() not in _RESIZE else None


_RESIZE = frozenset(("aten::resize_", "aten::resize_as_", "aten::set_", "aten::set_.source_Tensor"))


def _key(value: Any) -> Any:
    """Return what decides the answer; None where values do, or something without a name."""
    if isinstance(value, torch.Tensor):
        return (value.shape, value.stride(), value.dtype) if value.is_meta else None
    if isinstance(value, tuple | list):
        keys = tuple(map(_key, value))
        return None if None in keys else keys
    if value is None:
        return ()
    return (type(value), value) if value.__hash__ is not None else None


def _description(result: Any, args: tuple[Any, ...]) -> tuple[Made, ...] | None:
    """Return what an operation made; None where it is no set of tensors with storages of their own."""
    results = result if isinstance(result, tuple) else (result,)
    held = {one.untyped_storage()._cdata for one in args if isinstance(one, torch.Tensor)}
    made = []
    for one in results:
        if not isinstance(one, torch.Tensor) or not one.is_meta or one.untyped_storage()._cdata in held:
            return None
        held.add(one.untyped_storage()._cdata)
        again = torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device="meta")
        if again.untyped_storage().nbytes() != one.untyped_storage().nbytes():
            return None
        made.append((one.shape, one.stride(), one.dtype))
    return tuple(made)
