"""A random model that writes varied words: the tests' usual one repeats a single byte, and would hide mistakes."""

import functools
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

_FOLDER = tempfile.TemporaryDirectory(prefix="peftkit-lively-")
WRITTEN = "abcdefghijklmnopqrstuvwxyzĠ.,!?Ã©Ł"  # as a byte-level tokenizer writes bytes; the last three are parts


@functools.cache
def lively(tiny_model: Path) -> Path:
    """Folder of a copy of the tiny model, its weights larger, that writes letters, signs, and at times an end."""
    generator = torch.Generator().manual_seed(5)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() == 2 and name != "lm_head.weight":
                value.normal_(std=0.4, generator=generator)
        for token in tokenizer.convert_tokens_to_ids(list(WRITTEN)):
            model.lm_head.weight[token].normal_(generator=generator)
        model.lm_head.weight[tokenizer.eos_token_id].normal_(std=0.8, generator=generator)
    folder = Path(_FOLDER.name) / "lively"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
