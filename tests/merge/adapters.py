"""Random LoRA adapters of the tiny model, and what they change as dense float64 matrices, computed in another way."""

import copy
import functools
import json
import math
import re
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from peftkit import machine
from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS, load_adapter, save_adapter
from peftkit.config import RunConfig
from peftkit.model.load import Source, load_model

torch.set_num_threads(1)
machine.quiet_libraries()

IDS = torch.randint(3, 250, (2, 24), generator=torch.Generator().manual_seed(3))
HALF = ["q_proj", "v_proj", "up_proj"]
# What makes PEFT's own combination go wrong: unequal ranks, patterns for both, and the root of the rank as scale.
PATTERNS = {
    "rank_pattern": {"up_proj": 6, "layers.1.self_attn.q_proj": 2},
    "alpha_pattern": {"v_proj": 5, "layers.0.mlp.up_proj": 24},
    "use_rslora": True,
}


def base(folder: Path):
    """The tiny model in float32, loaded once and copied."""
    return copy.deepcopy(_loaded(folder))


@functools.cache
def _loaded(folder: Path):
    config = RunConfig(recipe="none", model={"path": str(folder), "quantization": "none", "dtype": "float32"})
    return load_model(Source(str(folder)), config, "causal")


def make_adapter(model: Path, folder: Path, seed: int = 0, **settings) -> Path:
    """Write a random adapter, as large in its effect as a trained one."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": HALF, "task_type": "CAUSAL_LM"} | settings
    adapted = get_peft_model(base(model), LoraConfig(base_model_name_or_path=str(model), **settings))
    adapted.peft_config["default"].base_model_name_or_path = str(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
            elif value.requires_grad:
                value.add_(torch.randn(value.shape, generator=generator) * 0.1)
    save_adapter(adapted, folder)
    return folder


def settings_of(folder: Path) -> dict:
    return json.loads((folder / PEFT_CONFIG).read_text(encoding="utf-8"))


def edit_settings(folder: Path, **values) -> None:
    (folder / PEFT_CONFIG).write_text(json.dumps(settings_of(folder) | values), encoding="utf-8")


def changes(folder: Path) -> dict[str, torch.Tensor]:
    """The change of each module as a dense float64 matrix, with ranks and scales looked up by rules of its own."""
    settings, state = settings_of(folder), load_file(folder / WEIGHTS)
    found = {}
    for name, a in state.items():
        match = re.fullmatch(r"base_model\.model\.(.+)\.lora_(embedding_)?A(\.weight)?", name)
        if match is None:
            continue
        b = state[name.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B")]
        rank = of_pattern(settings["rank_pattern"], match[1], settings["r"])
        assert rank == a.shape[0] == b.shape[1]
        alpha = of_pattern(settings["alpha_pattern"], match[1], settings["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if settings["use_rslora"] else rank)
        found[match[1]] = scale * (b.double() @ a.double())
    return found


def of_pattern(pattern: dict, module: str, usual: float) -> float:
    for key, value in pattern.items():
        if module == key.removeprefix("^") or module.endswith(f".{key}"):
            return value
    return usual


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits.float()


def logits_with(model: Path, folder: Path) -> torch.Tensor:
    return logits(load_adapter(base(model), folder))


def logits_of_dense(model: Path, added: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of the base with dense changes added to its weights."""
    changed = base(model)
    with torch.no_grad():
        for name, change in added.items():
            changed.get_submodule(name).weight.add_(change.float())
    return logits(changed)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())
