"""The rows that together need most memory, and a model that is looked at without leaving a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_SMALL = 1 << 20  # bytes up to which a buffer is copied: masks and quantized weights are larger, and never written to
_Plain = bool | int | float | None


def worst_rows(dataset: Any, size: int) -> list[int]:
    """Return the numbers of the rows whose batch needs most memory: the longest ones.

    A batch is as long as its longest row. Where a row is read and another text is written, the row whose text is
    longest is among them, as both are padded.

    Args:
        dataset: Rows with `input_ids`, and `labels` that may be texts.
        size: Rows of a batch.
    """
    read: list[int] = []
    written: list[int] = []
    for table in dataset.with_format("arrow").iter(batch_size=1000):  # lengths only: the rows may be millions
        read += _lengths(table["input_ids"])
        written += _lengths(table["labels"])
    order = sorted(range(len(read)), key=lambda number: (-read[number] - written[number], number))
    first = max(order, key=lambda number: read[number])
    second = max(order, key=lambda number: written[number])
    return list(dict.fromkeys((first, second, *order) if size > 1 else order))[:size]


def _lengths(column: Any) -> list[int]:
    import pyarrow
    import pyarrow.compute

    kinds = (pyarrow.types.is_list, pyarrow.types.is_large_list)
    if not any(one(column.type) for one in kinds):  # a label or a score
        return [0] * len(column)
    lengths: list[int] = pyarrow.compute.list_value_length(column).to_pylist()
    return lengths


@contextmanager
def left_as_it_is(model: torch.nn.Module) -> Iterator[None]:
    """Put back what a pass may change in a model beside its weights: buffers, and numbers that modules keep.

    Positions that grow with the longest text seen are such numbers, and statistics of a batch such buffers.
    """
    held: list[tuple[torch.nn.Module, dict[str, _Plain], dict[str, torch.Tensor | None]]] = []
    copies: list[tuple[torch.Tensor, torch.Tensor]] = []
    for module in model.modules():
        plain = {name: one for name, one in vars(module).items() if one is None or isinstance(one, bool | int | float)}
        held.append((module, plain, dict(module._buffers)))
        copies += [(one, one.clone()) for one in module._buffers.values() if one is not None and one.nbytes <= _SMALL]
    try:
        yield
    finally:
        for module, plain, buffers in held:
            vars(module).update(plain)
            module._buffers.clear()
            module._buffers.update(buffers)
        with torch.no_grad():
            for buffer, before in copies:
                buffer.copy_(before)
