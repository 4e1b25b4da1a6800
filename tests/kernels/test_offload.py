"""Checkpoints in main memory: the same gradients, and no more on the card than what is in use."""

import gc
import weakref

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from peftkit.kernels.offload import Offload

LAYERS, SIZE = 6, 16


def _layers():
    torch.manual_seed(0)
    return [torch.nn.Sequential(torch.nn.Linear(SIZE, SIZE), torch.nn.Tanh()).double() for _ in range(LAYERS)]


def _forward(layers, hidden, run):
    for layer in layers:
        hidden = run(layer, hidden)
    return hidden


def _plain(layer, hidden):
    return checkpoint(layer, hidden, use_reentrant=False)


def _gradients(layers, run, passes=1):
    torch.manual_seed(1)
    for layer in layers:
        layer.zero_grad()
    for _ in range(passes):
        _forward(layers, torch.randn(5, SIZE, dtype=torch.float64, requires_grad=True), run).square().sum().backward()
    return [value.grad.clone() for layer in layers for value in layer.parameters()]


@pytest.mark.parametrize("passes", [1, 3])
def test_gradients_are_the_same(passes):
    layers = _layers()
    kept = _gradients(layers, _plain, passes)
    offload = Offload("cuda", least=1)  # copies for real, to another place of the same memory where there is no card
    moved = _gradients(layers, offload.around(_plain), passes)
    assert all(torch.equal(a, b) for a, b in zip(kept, moved, strict=True))
    size = 5 * SIZE * 8
    assert offload.most == LAYERS * size  # of one pass, however many there are
    assert offload.bytes == 0
    assert not offload.leaving


def test_a_hidden_state_leaves_when_the_next_one_is_kept():
    layers, offload = _layers(), Offload("cuda", least=1)
    seen: list[weakref.ref] = []

    def run(layer, hidden):
        seen.append(weakref.ref(hidden.untyped_storage()))
        return offload.around(_plain)(layer, hidden)

    output = _forward(layers, torch.randn(5, SIZE, dtype=torch.float64).requires_grad_() * 1, run)
    gc.collect()
    alive = [one() is not None for one in seen]
    assert alive == [False] * (LAYERS - 1) + [True]
    output.sum().backward()
    gc.collect()
    assert not any(one() is not None for one in seen)


def test_a_pass_that_is_given_up_leaves_nothing_behind():
    layers, offload = _layers(), Offload("cuda", least=1)
    output = _forward(layers, torch.randn(5, SIZE, dtype=torch.float64, requires_grad=True), offload.around(_plain))
    del output
    kept = _gradients(layers, _plain)
    assert all(torch.equal(a, b) for a, b in zip(_gradients(layers, offload.around(_plain)), kept, strict=True))
    assert offload.bytes == 0


@pytest.mark.parametrize(("meant", "least"), [("cpu", 1), ("cuda", 1 << 20)])
def test_what_is_in_main_memory_already_or_small_stays(meant, least):
    offload = Offload(meant, least)
    _gradients(_layers(), offload.around(_plain))
    assert offload.most == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
def test_on_a_card_gradients_are_the_same_and_memory_is_less():
    wide = [torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.Tanh()).cuda() for _ in range(LAYERS)]

    def step(run):
        torch.cuda.reset_peak_memory_stats()
        torch.manual_seed(1)
        for layer in wide:
            layer.zero_grad()
        _forward(wide, torch.randn(8192, 512, device="cuda", requires_grad=True), run).square().sum().backward()
        return [one.grad.clone() for layer in wide for one in layer.parameters()], torch.cuda.max_memory_allocated()

    step(_plain)
    kept, most = step(_plain)
    moved, least = step(Offload("cuda").around(_plain))
    assert all(torch.equal(a, b) for a, b in zip(kept, moved, strict=True))
    assert most - least > (LAYERS - 4) * 8192 * 512 * 4
