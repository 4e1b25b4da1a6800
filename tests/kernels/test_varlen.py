"""Attention for packed texts, each by itself, against `sdpa` with its mask of blocks."""

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from peftkit.config import RunConfig
from peftkit.kernels import varlen
from peftkit.plan.outline import outline_of
from peftkit.plan.shapes import known_settings
from peftkit.plan.step import Batch, Device, trace_step

LENGTHS = (5, 1, 9, 3)
SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "gemma3 with a window": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SIZES, sliding_window=4, layer_types=["sliding_attention", "full_attention"])
    ),
}


def _models(name):
    varlen.register()
    torch.manual_seed(0)
    model = MODELS[name]().double()
    model.set_attn_implementation("sdpa")
    return model


def _packed():
    torch.manual_seed(1)
    ends = torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32)
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    return {
        "input_ids": torch.randint(0, 40, (1, sum(LENGTHS))),
        "position_ids": positions[None],
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": max(LENGTHS),
        "max_length_k": max(LENGTHS),
        "use_cache": False,
    }


def _run(model, attention, inputs):
    model.set_attn_implementation(attention)
    model.zero_grad()
    logits = model(**inputs).logits
    logits.square().sum().backward()
    return [logits.detach(), *(value.grad.clone() for value in model.parameters())]


@pytest.mark.parametrize("name", MODELS)
def test_packed_texts_give_the_same_logits_and_gradients(name):
    model = _models(name)
    expected = _run(model, "sdpa", _packed())
    found = _run(model, "varlen", _packed())
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("padded", [False, True])
def test_what_is_not_packed_is_done_as_by_sdpa(name, padded):
    model = _models(name)
    inputs = {"input_ids": torch.arange(24).view(2, 12) % 40, "use_cache": False}
    if padded:
        inputs["attention_mask"] = torch.tensor([[0] * 4 + [1] * 8, [1] * 12])
    expected, found = _run(model, "sdpa", inputs), _run(model, "varlen", inputs)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_written_as_by_sdpa(name):
    model = _models(name)
    written = []
    for attention in ("sdpa", "varlen"):
        model.set_attn_implementation(attention)
        written.append(model.generate(torch.arange(6)[None] + 3, max_new_tokens=5, do_sample=False, pad_token_id=0))
    assert torch.equal(*written)


def test_no_mask_of_all_tokens_by_all_tokens_is_made():
    settings, tokens = known_settings("TinyLlama/TinyLlama-1.1B-v1.0"), 8192
    settings.num_hidden_layers = 2
    peaks = []
    for attention in ("sdpa", "varlen"):
        config = RunConfig(
            recipe="completion",
            task={"kind": "completion"},
            model={"path": "none", "attn_implementation": attention},
            train={"packing": True, "max_length": tokens, "per_device_train_batch_size": 1, "max_steps": 10},
        )
        device = Device("cuda", torch.bfloat16)
        peaks.append(outline_of(trace_step(settings, config, "causal", Batch(1, tokens, tokens), device)).peak)
    assert peaks[0] - peaks[1] >= 2 * tokens * tokens  # in bfloat16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
def test_the_kernel_of_torch_agrees():
    model = _models("llama").cuda().bfloat16()
    inputs = {name: one.cuda() if isinstance(one, torch.Tensor) else one for name, one in _packed().items()}
    expected, found = _run(model, "sdpa", inputs), _run(model, "varlen", inputs)
    assert all((a - b).norm() < 0.02 * b.norm() for a, b in zip(found, expected, strict=True))
