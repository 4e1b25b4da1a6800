"""Changed weights, a few rows at a time: what they were, what they become, and what rounding leaves of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftkit.merge.held import Held
from peftkit.merge.plan import Output, Piece

if TYPE_CHECKING:
    import torch

BLOCK_VALUES = 1 << 18
"""Values that are computed at once: 1 MiB of float32, so that all steps find them in the processor's cache."""
_ROWS = 64
"""Blocks of rows are multiples of so many: products of fewer can be computed in another order, with other last bits."""


@dataclass
class Realised:
    """How much of an intended change D = W' - W came through rounding: <R(W') - W, D> / <D, D>, summed over rows.

    Near 1 for a merge that keeps the adapter, near 0 where rounding takes it away. The norms are Frobenius norms.
    """

    along: float = 0.0
    intended: float = 0.0
    weight: float = 0.0

    def add(self, before: torch.Tensor, wanted: torch.Tensor, rounded: torch.Tensor) -> None:
        """Count rows, each of shape (count, columns); `before` and `wanted` in float32 or float64."""
        change = (wanted - before).flatten()
        self.along += float((rounded.to(wanted.dtype) - before).flatten().dot(change))
        self.intended += float(change.dot(change))
        flat = before.flatten()
        self.weight += float(flat.dot(flat))

    def take(self, other: Realised) -> None:
        """Count what another one counted."""
        self.along += other.along
        self.intended += other.intended
        self.weight += other.weight

    @property
    def share(self) -> float | None:
        """The share of the intended change that is there; None where none was intended."""
        return self.along / self.intended if self.intended else None

    @property
    def relative(self) -> float:
        """The norm of the intended change over that of the weight."""
        return (self.intended / self.weight) ** 0.5 if self.weight else 0.0


@dataclass(frozen=True)
class Trained:
    """How the weights were held that training saw."""

    kind: str
    dtype: torch.dtype


def merged_rows(one: Output, trained: Trained | None) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Compute a changed tensor, rows after rows.

    Returns:
        Of each block the weight before, the changed weight unrounded (both float32, or float64 where the source is),
        and the changed weight as it is written; each of shape (count, columns).
    """
    rows = Rows(one, trained)
    for piece, begin, count in blocks(one):
        yield merged(one, rows, piece, begin, count)


def blocks(one: Output) -> Iterator[tuple[Piece, int, int]]:
    """Cut an output into blocks: the piece that each is of, its first row in the piece, and how many rows it has."""
    total = one.source.rows if one.source else one.pieces[0].count
    columns = one.source.columns if one.source else one.shape[-1]
    done = 0
    for piece in (*one.pieces, Piece(total, 0, 0, ())):
        for part in (Piece(done, piece.first - done, 0, ()), piece):  # rows before it stay as they are
            yield from _blocks_of(part, columns)
        done = piece.first + piece.count


def _blocks_of(piece: Piece, columns: int) -> Iterator[tuple[Piece, int, int]]:
    step = max(_ROWS, BLOCK_VALUES // columns // _ROWS * _ROWS)
    if any(change.needs_all_rows for change in piece.changes):
        step = piece.count
    begin = 0
    while begin < piece.count:
        left = piece.count - begin
        count = left if left < step + _ROWS else step
        yield piece, begin, count
        begin += count


def merged(
    one: Output, rows: Rows, piece: Piece, begin: int, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute one block; the result is as that of `merged_rows`.

    Args:
        one: The output.
        rows: Gives rows of what it is made of.
        piece: The piece that the block is of.
        begin: The block's first row in the piece.
        count: How many rows it has.
    """
    import torch

    if one.source is None:
        values: torch.Tensor = piece.changes[0].values[begin : begin + count]  # type: ignore[attr-defined]
        return values.new_zeros(values.shape), values, values
    dtype = one.source.torch_dtype
    before = rows(piece.first + begin, count).to(torch.float64 if dtype is torch.float64 else torch.float32)
    wanted = before
    for change in piece.changes:
        wanted = change.apply(wanted, piece.skipped + begin, dtype)
    return before, wanted, wanted.to(dtype)


class Rows:
    """Gives rows of an output's source, as they are stored or as training saw them."""

    def __init__(self, one: Output, trained: Trained | None) -> None:
        self._source = one.source
        self._held = None
        if one.held and one.source is not None:
            assert trained is not None
            shape = (one.source.rows, one.source.columns)
            self._held = Held(self._stored, shape, trained.kind, trained.dtype, BLOCK_VALUES)

    def __call__(self, first: int, count: int) -> torch.Tensor:
        """Return rows, shape (count, columns)."""
        return self._held.rows(first, count) if self._held else self._stored(first, count)

    def _stored(self, first: int, count: int) -> torch.Tensor:
        assert self._source is not None
        with self._source.file.open("rb") as stream:
            return self._source.read_rows(stream, first, count)
