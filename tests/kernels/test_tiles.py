"""Layers run tile by tile, against the same layers run at once."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from peftkit.kernels.tiles import Tiled

SIZE = 8


class Feed(torch.nn.Module):
    """A feed-forward layer whose input, output and weights all get gradients."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = torch.nn.Linear(SIZE, 3 * SIZE), torch.nn.Linear(3 * SIZE, SIZE)
        self.frozen = torch.nn.Linear(SIZE, SIZE).requires_grad_(False)
        self.dropout = torch.nn.Dropout(dropout)
        self.double()

    def forward(self, hidden):
        return self.frozen(self.down(self.dropout(torch.nn.functional.silu(self.up(hidden)))))


def _hidden(tokens=11, rows=2):
    torch.manual_seed(1)
    return torch.randn(rows, tokens, SIZE, dtype=torch.float64)


def _gradients(layer, hidden, run=lambda layer, hidden: layer(hidden)):
    hidden = hidden.clone().requires_grad_()
    trained = [value for value in layer.parameters() if value.requires_grad]
    torch.manual_seed(2)
    output = run(layer, hidden)
    return [output.detach(), *torch.autograd.grad((output * output).sum(), (hidden, *trained))]


def _same(left, right):
    return all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("tokens", [1, 4, 21, 22, 100])
def test_output_and_gradients_are_the_same(tokens):
    layer = Feed()
    whole = _gradients(layer, _hidden())
    tiled = Tiled(layer, tokens)
    assert _same(_gradients(layer, _hidden()), whole)
    tiled.undo()
    assert "forward" not in vars(layer)


def test_gradients_are_those_of_finite_differences():
    layer = Feed()
    Tiled(layer, 2)
    hidden = _hidden(3, 1).requires_grad_()
    trained = [value for value in layer.parameters() if value.requires_grad]
    assert torch.autograd.gradcheck(lambda *_: layer(hidden), (hidden, *trained), fast_mode=True)


def test_inside_a_checkpoint_the_layer_runs_no_more_than_twice():
    layer = Feed()
    whole = _gradients(layer, _hidden())
    tiled = Tiled(layer, 4)
    own, calls = tiled.own, []
    tiled.own = lambda tile: calls.append(tile.shape[1]) or own(tile)
    found = _gradients(layer, _hidden(), lambda layer, hidden: checkpoint(layer, hidden, use_reentrant=False))
    assert _same(found, whole)
    assert calls == 2 * [4, 4, 4, 4, 4, 2]


def test_only_the_input_is_kept():
    layer = Feed()
    Tiled(layer, 4)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        hidden = _hidden().requires_grad_()
        layer(hidden)
    assert [one.data_ptr() for one in kept] == [hidden.data_ptr()]


@pytest.mark.parametrize("checkpointed", [False, True])
def test_dropout_drops_the_same_values_backwards(checkpointed):
    layer = Feed(dropout=0.5)
    Tiled(layer, 4)
    hidden = _hidden(4, 1).requires_grad_()  # what fits one tile runs as it is
    long = torch.cat([hidden, hidden], dim=1)
    run = (lambda one: checkpoint(layer, one, use_reentrant=False)) if checkpointed else layer
    torch.manual_seed(3)
    output = run(long)
    torch.manual_seed(3)
    again = torch.cat([layer(hidden), layer(hidden)], dim=1)
    assert torch.allclose(output, again)
    assert not torch.allclose(output[:, :4], output[:, 4:])
    before = torch.get_rng_state()
    above = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(0))
    (found,) = torch.autograd.grad(output, hidden, above)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.allclose(found, torch.autograd.grad(again, hidden, above)[0])


def test_autocast_is_the_same_backwards():
    layer = Feed().float()
    seen = []
    layer.up.register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    Tiled(layer, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(_hidden().float().requires_grad_())
    output.float().sum().backward()
    assert len(seen) == 12
    assert set(seen) == {torch.bfloat16}


def test_without_gradients_it_runs_at_once():
    layer = Feed()
    tiled = Tiled(layer, 4)
    own, calls = tiled.own, []
    tiled.own = lambda tile: calls.append(tile.shape[1]) or own(tile)
    with torch.no_grad():
        layer(_hidden())
    assert calls == [11]


def test_a_forward_pass_of_another_stand_in_is_given_back():
    layer = torch.nn.Linear(3, 3)
    layer.forward = stand_in = lambda hidden: 2 * hidden
    tiled = Tiled(layer, 2)
    assert torch.equal(layer(torch.ones(1, 5, 3)), torch.full((1, 5, 3), 2.0))
    tiled.undo()
    assert layer.forward is stand_in
