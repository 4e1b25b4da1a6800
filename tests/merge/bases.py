"""Small random base models of several architectures, and adapters for them that have a visible effect."""

import functools
import json
import tempfile
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from peftkit import machine
from peftkit.merge.merge import merge

torch.set_num_threads(1)
machine.quiet_libraries()

IDS = torch.arange(20).view(1, -1) + 3
_SIZE = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_HEADS = {"num_key_value_heads": 2, "head_dim": 8}
_EXPERTS = {"num_experts_per_tok": 2}
CONFIGS = {
    "llama": transformers.LlamaConfig(**_SIZE, **_HEADS, tie_word_embeddings=False),
    "tied": transformers.LlamaConfig(**_SIZE, **_HEADS, tie_word_embeddings=True),
    "qwen3": transformers.Qwen3Config(**_SIZE, **_HEADS, tie_word_embeddings=False),
    "gpt2": transformers.GPT2Config(
        vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0
    ),
    "qwen3moe": transformers.Qwen3MoeConfig(**_SIZE, **_HEADS, **_EXPERTS, moe_intermediate_size=16, num_experts=4),
    "mixtral": transformers.MixtralConfig(**_SIZE, **_HEADS, **_EXPERTS, num_local_experts=4),
}
_FOLDER = tempfile.TemporaryDirectory()


@functools.cache
def base(name: str, dtype: str = "float32", shards: str = "5GB") -> Path:
    """Folder of a random model, made at the first call; `shards` is the most that one file holds."""
    torch.manual_seed(0)
    folder = Path(_FOLDER.name) / f"{name}-{dtype}-{shards}"
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name], dtype=getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size=shards)
    return folder


def load(folder: Path, dtype: str = "float32"):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))


def adapter(of: Path, folder: Path, dtype: str = "float32", seed: int = 1, scale: float = 1.0, **settings) -> Path:
    """Save a LoRA whose every part is random, as PEFT saves it."""
    defaults = {"r": 4, "lora_alpha": 9, "task_type": "CAUSAL_LM"}
    torch.manual_seed(seed)
    model = get_peft_model(load(of, dtype), LoraConfig(**{**defaults, **settings}))
    for name, value in model.named_parameters():
        if value.requires_grad:
            size = 0.05 if "lora_A" in name or "embedding_A" in name else 0.01 * scale
            value.data += (torch.randn(value.shape) * size).to(value.dtype)
    model.save_pretrained(folder)
    return folder


def change_config(folder: Path, **values) -> None:
    """Change settings in an adapter's `adapter_config.json`."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def adapted(of: Path, folder: Path, dtype: str = "float32"):
    return PeftModel.from_pretrained(load(of, dtype), folder)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, by name."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(IDS).logits.float()


def merged(of: Path, adapters, out: Path, **more):
    """Merge plain adapters without loading the result; give the record."""
    several = [(one, 1.0) if isinstance(one, Path) else one for one in adapters]
    return merge(several, out, base=str(of), **{"proof": False, **more})
