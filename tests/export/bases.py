"""Small random models of the architectures that are written as GGUF, with a tokenizer, and LoRA adapters for them."""

import functools
import shutil
import tempfile
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model

from peftkit import machine

from ..models import tiny

torch.set_num_threads(1)
machine.quiet_libraries()

VOCABULARY = 288  # more than the tokenizer has, as in many models
_SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": 2,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# Sizes of heads and positions are those that transformers assumes when it reads a GGUF file of Qwen3 or GPT-2.
CONFIGS = {
    "llama": transformers.LlamaConfig(**_SIZE, tie_word_embeddings=False),
    "biased": transformers.LlamaConfig(**_SIZE, tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
    "tied": transformers.LlamaConfig(**_SIZE, tie_word_embeddings=True, rope_parameters=_LLAMA3),
    "qwen2": transformers.Qwen2Config(**_SIZE, tie_word_embeddings=True),
    "qwen3": transformers.Qwen3Config(**_SIZE, head_dim=128, tie_word_embeddings=False),
    "gpt2": transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=1024, bos_token_id=2, eos_token_id=2
    ),
}
PATTERNS = {
    "llama": {"rank_pattern": {"up_proj": 6}, "alpha_pattern": {"v_proj": 5, "layers.0.self_attn.q_proj": 24}},
    "gpt2": {"rank_pattern": {"c_fc": 6}, "alpha_pattern": {"attn.c_proj": 24}},
}
_FOLDER = tempfile.TemporaryDirectory(prefix="peftkit-export-")
IDS = torch.randint(4, 250, (2, 24), generator=torch.Generator().manual_seed(3))


@functools.cache
def base(name: str) -> Path:
    """Folder of a random model in float32, made at the first call."""
    torch.manual_seed(0)
    folder = Path(_FOLDER.name) / name
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name])
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 1:  # norms of ones and biases of zeros would hide a mistake
                value.add_(torch.randn(value.shape) * 0.1)
            else:
                value.mul_(3)
    model.save_pretrained(folder)
    for file in tiny("llama").glob("token*.json"):
        shutil.copy(file, folder)
    return folder


def load(folder: Path):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@functools.cache
def adapter(name: str) -> Path:
    """Folder of a random rsLoRA with patterns for ranks and scales, on all linear layers."""
    return make_adapter(name, Path(_FOLDER.name) / f"{name}-adapter")


def make_adapter(name: str, folder: Path, **settings) -> Path:
    usual = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "use_rslora": True, "task_type": "CAUSAL_LM"}
    patterns = PATTERNS["gpt2" if name == "gpt2" else "llama"]
    model = get_peft_model(load(base(name)), LoraConfig(**(usual | patterns | settings)))
    model.peft_config["default"].base_model_name_or_path = str(base(name))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "lora_" in key:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits.double()
