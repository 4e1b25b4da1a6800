"""Reading and writing step by step gives what `generate` gives, alone and in a batch, for every kind of cache."""

from pathlib import Path

import pytest
import torch
import transformers
from peft import (
    CartridgeConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)

from peftkit.model.stepper import Stepper

from ..merge.bases import _HEADS, _SIZE
from ..serve.lively import lively

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [20], [30, 31, 32], [40] * 12]
COUNT = 14
KIND = {"task_type": "CAUSAL_LM"}
ADAPTERS = {
    "none": None,
    "lora": LoraConfig(r=4, target_modules=["q_proj", "up_proj"], **KIND),
    "prompt tuning": PromptTuningConfig(num_virtual_tokens=5, **KIND),
    "p-tuning": PromptEncoderConfig(num_virtual_tokens=5, encoder_hidden_size=32, **KIND),
    "prefix tuning": PrefixTuningConfig(num_virtual_tokens=5, **KIND),
    "cartridge": CartridgeConfig(num_virtual_tokens=5, **KIND),
}


def adapted(base: Path, name: str):
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if ADAPTERS[name] is not None:
        model = get_peft_model(model, ADAPTERS[name])
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for value in model.parameters():
                if value.requires_grad:
                    value.copy_(torch.randn(value.shape, generator=generator) * 0.4)
    return model.eval()


def generated(model, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    settings = {"max_new_tokens": COUNT, "do_sample": False, "eos_token_id": 10**6, "pad_token_id": 0}
    return model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)[0].tolist()[-COUNT:]


def stepped(model, prompts: list[list[int]]) -> list[list[int]]:
    with torch.inference_mode():
        stepper, logits = Stepper.read(model, prompts, 0)
        rows = [logits.argmax(-1)]
        while len(rows) < COUNT:
            rows.append(stepper(rows[-1][:, None]).argmax(-1))
    return torch.stack(rows, 1).tolist()


@pytest.mark.parametrize("name", ADAPTERS)
def test_steps_are_those_of_generate(tiny_model: Path, name: str):
    model = adapted(lively(tiny_model), name)
    expected = [generated(model, prompt) for prompt in PROMPTS]
    assert len(set(map(tuple, expected))) == len(PROMPTS)
    assert stepped(model, PROMPTS[:1]) == expected[:1]
    assert stepped(model, PROMPTS) == expected
    if ADAPTERS[name] is not None:
        with model.disable_adapter():
            without = [generated(model, prompt) for prompt in PROMPTS]
            assert stepped(model, PROMPTS) == without
        assert without != expected


@pytest.mark.parametrize("name", ADAPTERS)
def test_rows_leave_and_join_on_the_way(tiny_model: Path, name: str):
    model = adapted(lively(tiny_model), name)
    expected = [generated(model, prompt) for prompt in PROMPTS]
    found: list[list[int]] = [[] for _ in PROMPTS]
    with torch.inference_mode():
        stepper, logits = Stepper.read(model, [PROMPTS[3], PROMPTS[0]], 0)
        there = [3, 0]
        for step in range(COUNT + 5):
            tokens = logits.argmax(-1)
            for row, token in zip(there, tokens.tolist(), strict=True):
                found[row].append(token)
            if step == 1:  # two join, one with a longer text than what is left
                joining, first = Stepper.read(model, [PROMPTS[1], PROMPTS[2]], 0)
                for row, token in zip((1, 2), first.argmax(-1).tolist(), strict=True):
                    found[row].append(token)
                assert stepper.grows
                stepper.add(joining)
                there += [1, 2]
                tokens = torch.cat([tokens, first.argmax(-1)])
            if step == 3:  # the longest leaves, and its padding with it
                width = stepper._mask.shape[1]
                stepper.keep([1, 2, 3])
                assert (stepper._mask.shape[1] < width) == (name not in ("prefix tuning", "cartridge"))
                there, tokens = there[1:], tokens[1:]
            logits = stepper(tokens[:, None])
    for row in (0, 1, 2):
        assert found[row][:COUNT] == expected[row]
    assert found[3] == expected[3][:4]


CACHES = {
    "sliding window": transformers.MistralConfig(**_SIZE, **_HEADS, sliding_window=6),
    "learned positions": transformers.GPT2Config(
        vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.4
    ),
    "recurrent": transformers.Qwen3NextConfig(
        **_SIZE,
        **_HEADS,
        layer_types=["linear_attention", "full_attention"],
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
}


@pytest.mark.parametrize("name", CACHES)
def test_other_kinds_of_memory_can_be_stepped_and_left_if_not_joined(name: str):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CACHES[name], dtype=torch.float32).eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.dim() == 2:
                value.normal_(std=0.3)
    expected = [generated(model, prompt) for prompt in PROMPTS]
    assert stepped(model, PROMPTS) == expected
    with torch.inference_mode():
        stepper, logits = Stepper.read(model, PROMPTS, 0)
        assert stepper.grows == (name == "learned positions")
        first = logits.argmax(-1)
        second = stepper(first[:, None]).argmax(-1)
        stepper.keep([0, 2])
        third = stepper(second[[0, 2], None]).argmax(-1).tolist()
    assert third == [expected[0][2], expected[2][2]]
