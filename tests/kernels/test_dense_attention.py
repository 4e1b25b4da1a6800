"""Attention by plain products of matrices, against torch's own."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from peftkit.kernels import dense_attention
from peftkit.kernels.dense_attention import _Dense, attend

ROWS, HEADS, KEYS, TOKENS, SIZE = 2, 6, 2, 9, 8


class Layer(torch.nn.Module):
    """What `attend` asks of an attention layer."""

    is_causal = True
    num_key_value_groups = HEADS // KEYS


def _given(dtype):
    torch.manual_seed(0)
    shapes = [(ROWS, heads, TOKENS, SIZE) for heads in (HEADS, KEYS, KEYS)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def _masks():
    causal = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
    padded = causal.expand(ROWS, 1, TOKENS, TOKENS).clone()
    padded[1, :, :, -3:] = False
    blocks = torch.block_diag(torch.ones(4, 4), torch.ones(5, 5)).bool() & causal
    return {"causal": None, "padded": padded, "packed": blocks[None, None]}


def _gradients(output, given):
    above = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return [output.detach(), *torch.autograd.grad(output, given, above)]


@pytest.mark.parametrize("kind", ["causal", "padded", "packed"])
def test_output_and_gradients_are_those_of_torch(kind):
    given, mask = _given(torch.float64), _masks()[kind]
    own = _gradients(_Dense.apply(*given, mask, mask is None, SIZE**-0.5), given)
    query, *pair = given
    repeated = [one.repeat_interleave(HEADS // KEYS, dim=1) for one in pair]
    plain = scaled_dot_product_attention(query, *repeated, attn_mask=mask, is_causal=mask is None)
    for a, b in zip(own, _gradients(plain, given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    mask = _masks()["padded"]
    assert torch.autograd.gradcheck(lambda *given: _Dense.apply(*given, mask, False, 0.3), _given(torch.float64))


@pytest.mark.parametrize("kind", ["causal", "padded", "packed"])
def test_in_bfloat16_it_is_near_to_what_torch_does(kind):
    exact, mask = _given(torch.float32), _masks()[kind]
    rounded = [one.detach().bfloat16().requires_grad_() for one in exact]
    wanted = _gradients(sdpa_attention_forward(Layer(), *exact, mask)[0], exact)
    output = attend(Layer(), *rounded, mask)[0]
    assert "_Dense" in str(_functions(output))
    for a, b in zip(_gradients(output, rounded), wanted, strict=True):
        assert (a - b).norm() < 0.02 * b.norm()


@pytest.mark.parametrize("change", ["float32", "long", "dropout", "values for a mask"])
def test_what_it_is_not_made_for_torch_does(change, monkeypatch):
    given = _given(torch.float32 if change == "float32" else torch.bfloat16)
    mask = None
    if change == "long":
        monkeypatch.setattr(dense_attention, "LONGEST", TOKENS - 1)
    if change == "values for a mask":
        mask = torch.zeros(1, 1, TOKENS, TOKENS, dtype=torch.bfloat16)
    output = attend(Layer(), *given, mask, dropout=0.5 if change == "dropout" else 0.0)[0]
    assert output.shape == (ROWS, TOKENS, HEADS, SIZE)
    assert "_Dense" not in str(_functions(output))


def test_a_row_that_sees_nothing_stays_finite():
    given, mask = _given(torch.bfloat16), _masks()["padded"]
    mask[0, :, :2] = False
    output = attend(Layer(), *given, mask)[0]
    assert all(one.isfinite().all() for one in _gradients(output, given))


def _functions(output):
    """Return the names of all steps that autograd has of an output."""
    names, waiting = set(), [output.grad_fn]
    while waiting:
        step = waiting.pop()
        if step is not None:
            names.add(type(step).__name__)
            waiting += [one for one, _ in step.next_functions]
    return names
