"""The formula of a step's arithmetic, held against operations that torch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from peftkit.bench.flops import Shape, shape_of


@pytest.fixture(scope="module")
def model(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation="eager")


def test_the_shape_is_that_of_the_model(model):
    """Two layers of 64 units, 4 heads of 16 of which 2 have keys, 128 inside the feed-forward layers."""
    layer = 64 * (64 + 32 + 32 + 64) + 3 * 64 * 128
    assert shape_of(model) == Shape(layers=2, linear=2 * layer, head=model.config.vocab_size * 64, width=64)


def test_the_formula_is_what_torch_counts(model):
    """Forwards, where every token is predicted; torch counts all of attention, the formula the half below the mask."""
    tokens, shape = 32, shape_of(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.ones(3, tokens, dtype=torch.long))
    squares = 3 * tokens**2
    forwards = 2 * (shape.linear + shape.head) * 3 * tokens + 4 * squares * shape.width * shape.layers
    rotation = counter.get_total_flops() - forwards  # the angles of the positions: a product of their own
    assert 0 <= rotation < 0.01 * forwards
    needed = shape.needed(3 * tokens, 3 * tokens, squares)
    assert needed == 4 * (shape.linear + shape.head) * 3 * tokens + 6 * squares * shape.width * shape.layers
    assert shape.again(3 * tokens, squares, 2) == pytest.approx(
        2 * shape.linear * 3 * tokens + 2 * squares * shape.width * shape.layers
    )
    assert shape.again(3 * tokens, squares, 1) == shape.again(3 * tokens, squares, 2) / 2


def test_tokens_that_are_not_trained_do_not_meet_the_output_layer(model):
    shape = shape_of(model)
    assert shape.needed(100, 10, 0) == shape.needed(100, 0, 0) + 40 * shape.head
