"""Matrices of low rank as two factors: sums, norms and best approximations, without the matrix itself.

The change of a module is C = B A with B of shape (out, r) and A of shape (r, in). With B = Qb Rb and A^T = Qa Ra (QR),
C = Qb (Rb Ra^T) Qa^T: the small core has C's singular values, and its decomposition gives C's own (Eckart-Young).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

EXACT = 512
"""A dense matrix with no side longer than this on its shorter side is decomposed exactly."""
OVERSAMPLING = 16
POWER_ITERATIONS = 4


@dataclass(frozen=True)
class Factors:
    """A matrix B A of low rank.

    Attributes:
        b: float64 or float32 of shape (out, r).
        a: The same dtype, of shape (r, in).
    """

    b: torch.Tensor
    a: torch.Tensor

    @property
    def rank(self) -> int:
        """Number of columns of B."""
        return int(self.a.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of B A."""
        return int(self.b.shape[0]), int(self.a.shape[1])

    def dense(self) -> torch.Tensor:
        """Return B A as float32, of shape (out, in)."""
        return self.b.float() @ self.a.float()


@dataclass(frozen=True)
class Decomposed:
    """The singular value decomposition U diag(S) V of a matrix, or of its best approximation of some rank.

    Attributes:
        u: Orthonormal columns, of shape (out, k).
        s: Singular values in falling order, float64 of shape (k,).
        v: Orthonormal rows, of shape (k, in).
        energy: Squared Frobenius norm of the whole matrix, of which `s` may hold a part.
    """

    u: torch.Tensor
    s: torch.Tensor
    v: torch.Tensor
    energy: float

    def cut(self, rank: int) -> Factors:
        """Return the best approximation of at most that rank, with S shared evenly by both factors; rank one at least.

        A matrix of zeros becomes factors of zeros.
        """
        root = self.s[:rank].sqrt()
        return Factors(self.u[:, :rank] * root.to(self.u), root.to(self.v)[:, None] * self.v[:rank])

    def kept(self, rank: int) -> float:
        """Return the squared norm that the approximation of that rank has."""
        return float((self.s[:rank] ** 2).sum())

    @property
    def numerical_rank(self) -> int:
        """Number of singular values that float32 can tell from zero beside the largest one; one at least."""
        import torch

        tolerance = self.s[0] * torch.finfo(torch.float32).eps
        return max(1, int((self.s > tolerance).sum()))


def weighted_sum(terms: Sequence[tuple[float, Factors]]) -> Factors:
    """Return the sum of weights times matrices, with the factors stacked and the weights folded into B, in float64."""
    import torch

    return Factors(
        torch.cat([weight * one.b.double() for weight, one in terms], dim=1),
        torch.cat([one.a.double() for _, one in terms], dim=0),
    )


def decompose(factors: Factors) -> Decomposed:
    """Return the exact decomposition of B A, in float64; what rounding leaves of terms that cancel is zero."""
    import torch

    qb, rb = torch.linalg.qr(factors.b.double())
    qa, ra = torch.linalg.qr(factors.a.double().T)
    u, s, v = torch.linalg.svd(rb @ ra.T, full_matrices=False)
    rounding = 8 * torch.finfo(torch.float64).eps * torch.linalg.matrix_norm(rb) * torch.linalg.matrix_norm(ra)
    s = torch.where(s > rounding, s, 0)
    return Decomposed(qb @ u, s, v @ qa.T, float((s**2).sum()))


def norm(factors: Factors) -> float:
    """Return the Frobenius norm of B A, from the small core: nothing cancels where a sum is nearly zero."""
    import torch

    rb = torch.linalg.qr(factors.b.double(), mode="r").R
    ra = torch.linalg.qr(factors.a.double().T, mode="r").R
    return float(torch.linalg.matrix_norm(rb @ ra.T))


def inner(one: Factors, other: Factors) -> float:
    """Return the sum of the products of all entries, trace(A1^T B1^T B2 A2)."""
    left = one.b.double().T @ other.b.double()
    right = one.a.double() @ other.a.double().T
    return float((left * right).sum())


def decompose_dense(matrix: torch.Tensor, rank: int, seed: int = 0) -> Decomposed:
    """Return the leading part of a dense matrix's decomposition, in float32.

    Small matrices are decomposed exactly. Of large ones the range is found at random, with oversampling and power
    iterations (Halko, Martinsson and Tropp, arXiv 0909.4061, algorithms 4.4 and 5.1).

    Args:
        matrix: float32 of shape (out, in).
        rank: Number of singular values that are wanted.
        seed: Of the random range.
    """
    import torch

    energy = float(torch.linalg.vector_norm(matrix, dtype=torch.float64) ** 2)
    rank = min(rank, *matrix.shape)
    sketch = rank + OVERSAMPLING
    if min(matrix.shape) <= max(EXACT, 2 * sketch):
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    else:
        generator = torch.Generator().manual_seed(seed)
        found = matrix @ torch.randn(matrix.shape[1], sketch, generator=generator)
        for _ in range(POWER_ITERATIONS):
            found = torch.linalg.qr(found).Q
            found = matrix @ torch.linalg.qr(matrix.T @ found).Q
        q = torch.linalg.qr(found).Q
        small, s, v = torch.linalg.svd(q.T @ matrix, full_matrices=False)
        u = q @ small
    return Decomposed(u[:, :rank], s[:rank].double(), v[:rank], energy)
