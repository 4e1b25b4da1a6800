"""Changed weights, a few rows at a time: what they were, what they become, and what rounding leaves of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftkit.merge.changes import Scratch
from peftkit.merge.held import Held
from peftkit.merge.plan import Output, Piece

if TYPE_CHECKING:
    import torch

BLOCK_VALUES = 1 << 18
"""Values that are computed at once: 1 MiB of float32, so that all steps find them in the processor's cache."""
_ROWS = 32
"""Blocks of rows are multiples of so many: products of fewer can be computed in another order, with other last bits."""
_HELD_ROWS = 64
"""The same where training saw quantized weights, of which so many share a scale."""


@dataclass
class Realised:
    """How much of an intended change D = W' - W came through rounding: <R(W') - W, D> / <D, D>, summed over rows.

    Near 1 for a merge that keeps the adapter, near 0 where rounding takes it away. The norms are Frobenius norms.
    """

    along: float = 0.0
    intended: float = 0.0
    weight: float = 0.0

    def add(self, weight: torch.Tensor, wanted: torch.Tensor, rounded: torch.Tensor, scratch: Scratch) -> None:
        """Count rows, each of shape (count, columns).

        Args:
            weight: The rows of W, in float32 or float64.
            wanted: Those of W', of the same type.
            rounded: Those of R(W'), of any type.
            scratch: Memory for what is needed meanwhile.
        """
        import torch

        there, change = (scratch.take(name, tuple(wanted.shape), wanted.dtype) for name in ("there", "change"))
        there.copy_(rounded).sub_(weight)
        torch.sub(wanted, weight, out=change)
        self.along += float(there.view(-1).dot(change.view(-1)))
        self.intended += float(change.view(-1).dot(change.view(-1)))
        flat = weight.reshape(-1)
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


def merged_rows(one: Output, trained: Trained | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Compute a changed tensor, rows after rows.

    Returns:
        Of each block the weight before, and the changed weight unrounded (both float32, or float64 where the source
        is); each of shape (count, columns), and good until the next block is asked for.
    """
    rows, scratch = Rows(one, trained), Scratch()
    for piece, begin, count in blocks(one):
        found, wanted = merged(one, rows, piece, begin, count, scratch)
        yield before(found, wanted, scratch), wanted


def blocks(one: Output) -> Iterator[tuple[Piece, int, int]]:
    """Cut an output into blocks: the piece that each is of, its first row in the piece, and how many rows it has."""
    total = one.source.rows if one.source else one.pieces[0].count
    columns = one.source.columns if one.source else one.shape[-1]
    unit = _HELD_ROWS if one.held else _ROWS
    step = max(unit, BLOCK_VALUES // columns // unit * unit)
    done = 0
    for piece in (*one.pieces, Piece(total, 0, 0, ())):
        for part in (Piece(done, piece.first - done, 0, ()), piece):  # rows before it stay as they are
            whole = any(change.needs_all_rows for change in part.changes)
            yield from _blocks_of(part, max(1, part.count) if whole else step, unit)
        done = piece.first + piece.count


def _blocks_of(piece: Piece, step: int, unit: int) -> Iterator[tuple[Piece, int, int]]:
    begin = 0
    while begin < piece.count:
        left = piece.count - begin
        count = left if left < step + unit else step
        yield piece, begin, count
        begin += count


def merged(
    one: Output, rows: Rows, piece: Piece, begin: int, count: int, scratch: Scratch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute one block.

    Args:
        one: The output.
        rows: Gives rows of what it is made of.
        piece: The piece that the block is of.
        begin: The block's first row in the piece.
        count: How many rows it has.
        scratch: Memory to compute in.

    Returns:
        The weight as it was found, in its own dtype, and the changed weight unrounded (float32, or float64 where the
        source is); each of shape (count, columns), and good until the scratch memory is used again.
    """
    import torch

    if one.source is None:
        values: torch.Tensor = piece.changes[0].values[begin : begin + count]  # type: ignore[attr-defined]
        return values.new_zeros(values.shape), values
    stored = one.source.torch_dtype
    found = rows(piece.first + begin, count, scratch)
    dtype = torch.float64 if stored is torch.float64 else torch.float32
    wanted = scratch.take("wanted", tuple(found.shape), dtype).copy_(found)
    for change in piece.changes:
        wanted = change.apply(wanted, piece.skipped + begin, stored, scratch)
    return found, wanted


def before(found: torch.Tensor, wanted: torch.Tensor, scratch: Scratch) -> torch.Tensor:
    """Return what `merged` has found in the dtype of what it wants."""
    return scratch.take("before", tuple(found.shape), wanted.dtype).copy_(found)


class Rows:
    """Gives rows of an output's source, as they are stored or as training saw them."""

    def __init__(self, one: Output, trained: Trained | None) -> None:
        self._source = one.source
        self._held = None
        if one.held and one.source is not None:
            assert trained is not None
            shape = (one.source.rows, one.source.columns)
            self._held = Held(self._stored, shape, trained.kind, trained.dtype, BLOCK_VALUES)

    def __call__(self, first: int, count: int, scratch: Scratch) -> torch.Tensor:
        """Return rows, shape (count, columns); they may stand in the scratch memory."""
        if self._held:
            return self._held.rows(first, count)
        assert self._source is not None
        return self._stored(
            first, count, scratch.take("stored", (count, self._source.columns), self._source.torch_dtype)
        )

    def _stored(self, first: int, count: int, into: torch.Tensor | None = None) -> torch.Tensor:
        assert self._source is not None
        with self._source.file.open("rb") as stream:
            return self._source.read_rows(stream, first, count, into)
