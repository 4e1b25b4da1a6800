"""What an adapter does to one parameter, computed for any rows of it: all of LoRA, and what is trained in whole.

Every change takes rows of a weight in float32 (float64 where the weight is) and gives them changed. The formulas are
those of PEFT's layers, in the order of operations that they have there, so that the results are the same to the last
bit; nothing is rounded before the end but what PEFT rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Change(Protocol):
    """A change of one parameter, seen as a matrix of (rows, columns)."""

    @property
    def needs_all_rows(self) -> bool:
        """Whether it can only be computed for all rows at once."""

    @property
    def replaces(self) -> bool:
        """Whether it puts other values in place of the weight, whatever that is."""

    def apply(self, weight: torch.Tensor, first: int, stored: torch.dtype, scratch: Scratch) -> torch.Tensor:
        """Change rows of a weight.

        Args:
            weight: Shape (count, columns), the rows from `first` on; its memory may be used for the result.
            first: Number of the first row.
            stored: What the weight is rounded to in the end.
            scratch: Memory for what is needed meanwhile.

        Returns:
            The changed rows, shape (count, columns).
        """


class Scratch:
    """Memory that is used again for block after block: new memory for each costs more than computing it."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor of any values, whose memory is that of the last one of this name and type."""
        import torch

        count = math.prod(shape)
        held = self._held.get((name, dtype))
        if held is None or len(held) < count:
            held = self._held[name, dtype] = torch.empty(count, dtype=dtype)
        return held[:count].view(shape)


@dataclass(frozen=True)
class LowRank:
    """LoRA: W + scale B A (arXiv 2106.09685); with a magnitude, DoRA (arXiv 2402.09353).

    Attributes:
        a: Shape (r, in), float32.
        b: Shape (out, r), float32.
        scale: lora_alpha / r or lora_alpha / sqrt(r), times the weight that the adapter is given.
        transposed: The weight has shape (in, out), as in Conv1D and in embeddings.
        rounded: PEFT rounds the change of embeddings and fused experts before it adds it.
        magnitude: Shape (out,), DoRA's trained norms.
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    transposed: bool = False
    rounded: bool = False
    magnitude: torch.Tensor | None = None
    replaces = False

    @property
    def needs_all_rows(self) -> bool:
        """DoRA's norms go over the inputs, which are the rows of a transposed weight."""
        return self.magnitude is not None and self.transposed

    def delta(self, first: int, count: int, scratch: Scratch) -> torch.Tensor:
        """Return rows of scale B A, shape (count, columns)."""
        import torch

        rows = slice(first, first + count)
        b, a = (self.b, self.a[:, rows]) if self.transposed else (self.b[rows], self.a)
        exact = math.frexp(self.scale)[0] in (0.5, -0.5)  # a power of two rounds nothing, so it can come first
        product = scratch.take("product", (len(b), a.shape[1]), b.dtype)
        torch.mm(b * self.scale if exact else b, a, out=product)
        if not exact:
            product.mul_(self.scale)
        return product.T if self.transposed else product

    def apply(self, weight: torch.Tensor, first: int, stored: torch.dtype, scratch: Scratch) -> torch.Tensor:
        """Change rows of a weight."""
        import torch

        delta = self.delta(first, len(weight), scratch)
        changed = weight.add_(delta.to(stored) if self.rounded else delta)
        if self.magnitude is None:
            return changed
        if self.transposed:
            return changed.mul_(self.magnitude / torch.linalg.norm(changed.T, dim=1))
        factor = self.magnitude[first : first + len(weight)] / torch.linalg.norm(changed, dim=1)
        return changed.mul_(factor.view(-1, 1))


@dataclass(frozen=True)
class Added:
    """Values added to a vector: LoRA's bias.

    Attributes:
        values: Shape (rows, 1).
    """

    values: torch.Tensor
    needs_all_rows = False
    replaces = False

    def apply(self, weight: torch.Tensor, first: int, stored: torch.dtype, scratch: Scratch) -> torch.Tensor:
        """Change rows of a vector."""
        return weight.add_(self.values[first : first + len(weight)])


@dataclass(frozen=True)
class Replaced:
    """Rows trained in place of the base's: a module of `modules_to_save`, a bias, or single tokens.

    Attributes:
        values: Shape (rows, columns).
        rows: Which rows these are, ascending; None for all of them.
    """

    values: torch.Tensor
    rows: torch.Tensor | None = None
    needs_all_rows = False

    @property
    def replaces(self) -> bool:
        """Single rows leave the others as they are."""
        return self.rows is None

    def apply(self, weight: torch.Tensor, first: int, stored: torch.dtype, scratch: Scratch) -> torch.Tensor:
        """Put rows in place of a weight's."""
        import torch

        if self.rows is None:
            return weight.copy_(self.values[first : first + len(weight)])
        begin, end = (int(torch.searchsorted(self.rows, edge)) for edge in (first, first + len(weight)))
        weight[self.rows[begin:end] - first] = self.values[begin:end].to(weight.dtype)
        return weight


@dataclass(frozen=True)
class Experts:
    """LoRA of a fused parameter of shape (experts, rows, columns): a change for each expert's matrix.

    Attributes:
        each: One for each expert.
    """

    each: tuple[LowRank, ...]

    @classmethod
    def of(cls, a: torch.Tensor, b: torch.Tensor, scale: float, experts: int, *, transposed: bool) -> Experts:
        """Take PEFT's stacked factors apart.

        Args:
            a: Shape (experts * r, in), expert after expert.
            b: Shape (out, r * experts), where the experts of one rank stand side by side.
            scale: As in `LowRank`.
            experts: How many there are.
            transposed: An expert's matrix has shape (in, out).
        """
        down = a.reshape(experts, -1, a.shape[1])
        up = b.reshape(b.shape[0], -1, experts).permute(2, 0, 1)
        pairs = zip(down, up, strict=True)
        return cls(tuple(LowRank(one, other, scale, transposed, rounded=True) for one, other in pairs))


def same_change(one: Change | Experts, other: Change | Experts) -> bool:
    """Whether two changes give the same values, by what they are made of; a transposed LoRA can equal a plain one."""
    import torch

    if isinstance(one, LowRank) and isinstance(other, LowRank):
        if one.scale != other.scale or one.magnitude is not None or other.magnitude is not None:
            return one is other
        left, right = (((x.a.T, x.b.T) if x.transposed else (x.b, x.a)) for x in (one, other))
        return all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(left, right, strict=True))
    if isinstance(one, Replaced) and isinstance(other, Replaced):
        rows = (one.rows is None) == (other.rows is None) and (
            one.rows is None or other.rows is None or torch.equal(one.rows, other.rows)
        )
        return rows and torch.equal(one.values, other.values)
    return one is other
