"""TIES, DARE and pruning against direct computations on dense matrices, entry by entry."""

import pytest
import torch

from peftkit.merge.combine import combine
from peftkit.merge.given import Weighted
from peftkit.merge.low_rank import EXACT, decompose_dense
from peftkit.merge.sparse import dare, keep_largest, magnitude_prune, seed_of, ties

from .adapters import PATTERNS, changes, make_adapter, relative

DENSE = [torch.randn(20, 30, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2, 3)]
WEIGHTS = (0.7, -0.3, 1.0)


def by_magnitude(matrix, density):
    """The entries that are kept, one after the other."""
    order = sorted(range(matrix.numel()), key=lambda place: -abs(float(matrix.flatten()[place])))
    kept = torch.zeros(matrix.numel(), dtype=matrix.dtype)
    for place in order[: int(density * matrix.numel())]:
        kept[place] = matrix.flatten()[place]
    return kept.reshape(matrix.shape)


def ties_entry_by_entry(matrices, weights, density):
    trimmed = [weight * by_magnitude(one, density) for weight, one in zip(weights, matrices, strict=True)]
    merged = torch.zeros_like(matrices[0])
    for row in range(merged.shape[0]):
        for column in range(merged.shape[1]):
            values = [float(one[row, column]) for one in trimmed]
            up = sum(values) > 0
            agreeing = [value for value in values if value and (value > 0) == up] if sum(values) else []
            merged[row, column] = sum(agreeing) / len(agreeing) if agreeing else 0
    return merged


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 1.0])
def test_ties(density):
    found = ties(zip(WEIGHTS, DENSE, strict=True), density)
    assert torch.allclose(found, ties_entry_by_entry(DENSE, WEIGHTS, density), atol=1e-6)


@pytest.mark.parametrize("density", [0.05, 0.5, 1.0])
def test_magnitude_prune(density):
    expected = sum(weight * by_magnitude(one, density) for weight, one in zip(WEIGHTS, DENSE, strict=True))
    assert torch.allclose(magnitude_prune(zip(WEIGHTS, DENSE, strict=True), density), expected, atol=1e-6)


def test_dare_drops_at_random_rescales_and_goes_by_its_seed():
    large = [torch.ones(400, 500), torch.ones(400, 500)]
    found = dare(zip((1.0, 10.0), large, strict=True), 0.25, 7)
    assert set(found.unique().tolist()) == {0, 4, 40, 44}
    share = [float((found == value).float().mean()) for value in (0, 4, 40, 44)]
    assert share == pytest.approx([0.5625, 0.1875, 0.1875, 0.0625], abs=0.01)
    assert float(found.mean()) == pytest.approx(11, rel=0.02)
    assert torch.equal(found, dare(zip((1.0, 10.0), large, strict=True), 0.25, 7))
    assert not torch.equal(found, dare(zip((1.0, 10.0), large, strict=True), 0.25, 8))


def test_dare_that_drops_nothing_is_the_sum():
    found = dare(zip(WEIGHTS, DENSE, strict=True), 1.0, 0)
    expected = sum(weight * one for weight, one in zip(WEIGHTS, DENSE, strict=True))
    assert torch.allclose(found, expected, atol=1e-6)


def test_one_entry_at_least_is_kept():
    assert int((keep_largest(DENSE[0], 1e-9) != 0).sum()) == 1


@pytest.mark.parametrize("method", ["ties", "dare", "magnitude_prune"])
def test_a_combination_is_the_dense_one_cut_to_a_rank(tiny_model, tmp_path, method):
    a = make_adapter(tiny_model, tmp_path / "a", 1, **PATTERNS)
    b = make_adapter(tiny_model, tmp_path / "b", 2, r=3)
    weighted = [Weighted(a, 0.7), Weighted(b, 1.2)]
    report = combine(weighted, tmp_path / "out", method=method, density=0.3, rank=5, seed=3)
    found = changes(tmp_path / "out")
    pairs = {name: [change.float(), changes(b)[name].float()] for name, change in changes(a).items()}
    for name, dense in pairs.items():
        terms = list(zip((0.7, 1.2), dense, strict=True))
        if method == "ties":
            merged = ties_entry_by_entry(dense, (0.7, 1.2), 0.3)
        elif method == "dare":
            merged = dare(terms, 0.3, seed_of(3, name))
        else:
            merged = sum(weight * by_magnitude(one, 0.3) for weight, one in terms)
        u, s, v = torch.linalg.svd(merged.double(), full_matrices=False)
        assert relative(found[name], u[:, :5] * s[:5] @ v[:5]) < 1e-4
        assert report["modules"][name] == {
            "rank": 5,
            "energy_kept": pytest.approx(float((s[:5] ** 2).sum() / (s**2).sum()), rel=1e-4),
        }
    assert 0.1 < report["energy_kept"] < 0.95


def test_a_large_matrix_is_decomposed_nearly_as_well_as_exactly():
    generator = torch.Generator().manual_seed(0)
    u = torch.linalg.qr(torch.randn(EXACT + 300, EXACT + 200, generator=generator)).Q
    v = torch.linalg.qr(torch.randn(EXACT + 250, EXACT + 200, generator=generator)).Q
    values = torch.arange(1, EXACT + 201) ** -0.7  # a slow fall, which is hard to tell apart
    matrix = u * values @ v.T
    found = decompose_dense(matrix, 8, seed=1)
    assert found.s == pytest.approx(values[:8].double(), rel=1e-3)
    assert found.energy == pytest.approx(float((values**2).sum()), rel=1e-4)
    best = float((values[8:] ** 2).sum()) ** 0.5
    error = float((matrix - found.cut(8).dense()).norm())
    assert best <= error * 1.0001
    assert error < best * 1.001
    assert torch.equal(found.u, decompose_dense(matrix, 8, seed=1).u)
