"""The loss head with its gradient from one pass, against the logits of the whole vocabulary."""

import pytest
import torch
from trl.kernels import ChunkedLogProbFunction

from peftkit.kernels import loss_head
from peftkit.kernels.loss_head import LabelLogProbs, OnProcessor

TOKENS, SIZE, VOCABULARY = 7, 12, 40
OUTPUTS = ("log_probs", "entropy", "is_top1")
SETTINGS = [
    {},
    {"temperature": 0.7},
    {"logit_scale": 1.6},
    {"softcap": 2.5},
    {"temperature": 1.4, "softcap": 1.5, "logit_scale": 0.8},
]


def _given(dtype=torch.float64):
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, SIZE, dtype=dtype, requires_grad=True)
    weight, bias = torch.randn(VOCABULARY, SIZE, dtype=dtype), torch.randn(VOCABULARY, dtype=dtype)
    return hidden, weight, bias, torch.randint(0, VOCABULARY, (TOKENS,))


def _head(function, given, temperature=1.0, softcap=None, logit_scale=1.0):
    return function.apply(*given, temperature, VOCABULARY, softcap, logit_scale, OUTPUTS)


def _log_probs(hidden, weight, bias, targets, temperature=1.0, softcap=None, logit_scale=1.0):
    logits = (hidden @ weight.T + bias) * logit_scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return (logits / temperature).log_softmax(-1)


@pytest.mark.parametrize("tile", [VOCABULARY, 3 * VOCABULARY, 2**23])
@pytest.mark.parametrize("settings", SETTINGS)
def test_values_and_gradient_are_those_of_all_logits(settings, tile, monkeypatch):
    monkeypatch.setattr(loss_head, "TILE", tile)
    given = hidden, *_, targets = _given()
    log_probs, entropy, _, _, is_top1 = _head(LabelLogProbs, given, **settings)
    every = _log_probs(*given, **settings)
    expected = every.gather(-1, targets[:, None]).squeeze(-1)
    above = torch.linspace(-1, 2, TOKENS)
    (found,) = torch.autograd.grad(log_probs, hidden, above)
    (wanted,) = torch.autograd.grad(expected, hidden, above.double())
    torch.testing.assert_close(log_probs, expected.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(entropy, -(every.exp() * every).sum(-1).float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert is_top1.tolist() == (every.argmax(-1) == targets).tolist()


def test_in_bfloat16_it_is_as_near_to_float64_as_trls_head():
    exact = hidden, weight, bias, targets = _given()
    (wanted,) = torch.autograd.grad(_head(LabelLogProbs, exact)[0].sum(), hidden)
    rounded = [one.detach().bfloat16() for one in (hidden, weight, bias)]
    rounded[0].requires_grad_()
    errors = []
    for function in (LabelLogProbs, ChunkedLogProbFunction):
        (found,) = torch.autograd.grad(_head(function, (*rounded, targets))[0].sum(), rounded[0])
        errors.append(float((found - wanted).norm() / wanted.norm()))
    assert errors[0] < 1.2 * errors[1] < 0.02


def test_no_gradient_is_made_where_none_is_wanted():
    hidden, *rest = _given()
    output = _head(LabelLogProbs, (hidden.detach(), *rest))[0]
    assert not output.requires_grad


def test_a_head_that_is_trained_stays_trls():
    hidden, weight, bias, targets = _given()
    weight.requires_grad_()
    log_probs = _head(OnProcessor, (hidden, weight, bias, targets))[0]
    assert "Chunked" in type(log_probs.grad_fn).__name__
    (found,) = torch.autograd.grad(log_probs.sum(), weight)
    assert found.abs().max() > 0
    assert "LabelLogProbs" in type(_head(OnProcessor, _given())[0].grad_fn).__name__
