"""What transformers and PEFT answer by themselves: one prompt at a time, one adapter on one base, `generate`."""

import functools
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

END = 2  # the token that ends a turn of the tiny model


@functools.cache
def _model(base: Path, adapter: Path | None):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return (model if adapter is None else PeftModel.from_pretrained(model, adapter)).eval()


@functools.cache
def tokenizer(base: Path):
    return AutoTokenizer.from_pretrained(base)


def generated(base: Path, adapter: Path | None, prompt: list[int], count: int, ends=(0, 1, END)) -> list[int]:
    """Tokens after a prompt, without the one that ends them."""
    ids = torch.tensor([prompt])
    made = _model(base, adapter).generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=list(ends),
    )
    tokens = made[0, len(prompt) :].tolist()
    return tokens[:-1] if tokens[-1] in ends else tokens


def chat_ids(base: Path, messages) -> list[int]:
    return tokenizer(base).apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def text_of(base: Path, ids: list[int]) -> str:
    return tokenizer(base).decode(ids, skip_special_tokens=True)
