"""What an adapter does to one parameter, computed for any rows of it: all of LoRA, and what is trained in whole.

Every change takes rows of a weight in float32 (float64 where the weight is) and gives them changed. The formulas are
those of PEFT's layers, in the order of operations that they have there, so that the results are the same to the last
bit; nothing is rounded before the end but what PEFT rounds.
"""

from __future__ import annotations

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

    def apply(self, weight: torch.Tensor, first: int, stored: torch.dtype) -> torch.Tensor:
        """Return rows of the changed weight.

        Args:
            weight: Shape (count, columns), the rows from `first` on; it stays as it is.
            first: Number of the first row.
            stored: What the weight is rounded to in the end.
        """


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

    def delta(self, first: int, count: int) -> torch.Tensor:
        """Return rows of scale B A, shape (count, columns)."""
        rows = slice(first, first + count)
        product = (self.b @ self.a[:, rows]).T if self.transposed else self.b[rows] @ self.a
        return product.mul_(self.scale)

    def apply(self, weight: torch.Tensor, first: int, stored: torch.dtype) -> torch.Tensor:
        """Return rows of the changed weight."""
        import torch

        delta = self.delta(first, len(weight))
        if self.magnitude is None:
            return weight + (delta.to(stored) if self.rounded else delta)
        changed = weight + delta
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

    def apply(self, weight: torch.Tensor, first: int, stored: torch.dtype) -> torch.Tensor:
        """Return rows of the changed vector."""
        return weight + self.values[first : first + len(weight)]


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

    def apply(self, weight: torch.Tensor, first: int, stored: torch.dtype) -> torch.Tensor:
        """Return rows of the changed weight."""
        import torch

        if self.rows is None:
            return self.values[first : first + len(weight)].to(weight.dtype)
        begin, end = (int(torch.searchsorted(self.rows, edge)) for edge in (first, first + len(weight)))
        changed = weight.clone()
        changed[self.rows[begin:end] - first] = self.values[begin:end].to(weight.dtype)
        return changed


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
