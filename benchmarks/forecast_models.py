"""Small models of random weights, of the families that the forecast is measured on."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from peftkit.model.convert import EMBEDDED
from peftkit.plan.tokenizer import blank_tokenizer

_FOLDERS = tempfile.TemporaryDirectory(prefix="peftkit-forecast-")
_DECODER: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
    "tie_word_embeddings": True,
}
_ENCODER: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "pad_token_id": 0,
}
_T5 = {"vocab_size": 4096, "d_model": 256, "d_kv": 32, "d_ff": 512, "num_layers": 4, "num_heads": 8}
_MADE = {
    "llama": ("AutoModelForCausalLM", "llama", _DECODER),
    "qwen3": ("AutoModelForCausalLM", "qwen3", _DECODER),
    "gemma2": ("AutoModelForCausalLM", "gemma2", {**_DECODER, "sliding_window": 128}),
    "bert": ("AutoModelForMaskedLM", "bert", _ENCODER),
    "modernbert": ("AutoModelForMaskedLM", "modernbert", {**_ENCODER, "bos_token_id": 1, "eos_token_id": 1}),
    "t5": ("AutoModelForSeq2SeqLM", "t5", {**_T5, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0}),
}


@functools.cache
def folder_of(name: str) -> str:
    """Return the folder of a small model, made at the first call; an embedded model keeps its name."""
    if name in EMBEDDED:
        return name
    model_class, kind, values = _MADE[name]
    torch.manual_seed(0)
    folder = Path(_FOLDERS.name) / name
    model = getattr(transformers, model_class).from_config(transformers.AutoConfig.for_model(kind, **values))
    model.save_pretrained(folder)
    blank_tokenizer().save_pretrained(folder)
    return str(folder)
