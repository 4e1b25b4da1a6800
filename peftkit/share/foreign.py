"""Adapters that other programs wrote, read into PEFT's form: PEFT and what is built on it, and MLX-LM."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS, read_files
from peftkit.adapter.peft_file import read_settings
from peftkit.errors import AdapterError, ModelError
from peftkit.merge.given import adapter_folder
from peftkit.merge.lora_file import PREFIX
from peftkit.model.weight_files import read_tensors

if TYPE_CHECKING:
    import torch

MLX_WEIGHTS = "adapters.safetensors"
_PICKLES = ("adapter_model.bin", "adapter_model.pt", "pytorch_model.bin")
_PROGRAMS = {"unsloth": "Unsloth", "axolotl": "axolotl", "llama-factory": "LLaMA-Factory", "swift": "ms-swift"}
"""Words of a card by which a program that saves through PEFT is known."""
_MLX_NAME = re.compile(r"(?P<module>.+)\.(?P<part>lora_a|lora_b|m)")


@dataclass(frozen=True)
class Foreign:
    """An adapter in PEFT's form, and what its files say besides.

    Attributes:
        program: What saved it, as far as the files say.
        settings: PEFT's configuration.
        state: The tensors, by their names in PEFT's file.
        template: The chat template that was saved with it.
        four_bit: Whether the base that it names is a copy in 4 bits.
    """

    program: str
    settings: dict[str, Any]
    state: dict[str, torch.Tensor]
    template: str | None
    four_bit: bool


def read_foreign(folder: Path) -> Foreign:
    """Read an adapter of another program.

    Args:
        folder: The folder with its files.

    Raises:
        AdapterError: It is none that is known, it is damaged, or it is a pickle.
    """
    folder = adapter_folder(folder)
    if (folder / MLX_WEIGHTS).is_file() and not (folder / WEIGHTS).exists():
        program, (settings, state) = "MLX-LM", _read_mlx(folder)
    else:
        _refuse_pickles(folder)
        settings, state = read_files(folder)
        program = _program(folder, settings)
    named = str(settings.get("base_model_name_or_path") or "")
    return Foreign(program, settings, state, _template(folder), bool(re.search(r"bnb-4bit|4bit$", named)))


def _refuse_pickles(folder: Path) -> None:
    for name in _PICKLES:
        if (folder / name).exists() and not (folder / WEIGHTS).exists():
            raise AdapterError(
                f"'{folder / name}' is a pickle, which can run code when it is read; save the adapter with "
                "save_pretrained(..., safe_serialization=True) where you trust it, and adopt that"
            )


def _program(folder: Path, settings: Mapping[str, Any]) -> str:
    card = _text(folder / "README.md").lower()
    named = str(settings.get("base_model_name_or_path")).lower()
    for word, program in _PROGRAMS.items():
        if word in card or named.startswith(f"{word}/"):
            return program
    return "PEFT"


def _template(folder: Path) -> str | None:
    """Return the chat template that was saved beside an adapter."""
    if text := _text(folder / "chat_template.jinja"):
        return text
    try:
        found = json.loads(_text(folder / "tokenizer_config.json") or "{}")
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"'{folder / 'tokenizer_config.json'}' is damaged; fetch it again") from error
    template = found.get("chat_template") if isinstance(found, dict) else None
    return template if isinstance(template, str) else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise AdapterError(f"'{path}' cannot be read: {error}") from error


def _read_mlx(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Turn MLX-LM's files into PEFT's: its factors are transposed, and its scale is alpha / r.

    There `lora_a` has shape (in, r), `lora_b` (r, out), and the change of a weight is scale * (lora_a lora_b)^T; of an
    embedding `lora_a` has shape (vocabulary, r). DoRA's norms are `m` (mlx_lm/tuner/lora.py and dora.py).
    """
    try:
        config = read_settings(folder / PEFT_CONFIG)
        found = read_tensors(folder / MLX_WEIGHTS)
        kind, parameters = config["fine_tune_type"], config["lora_parameters"]
        rank, scale = int(parameters["rank"]), float(parameters["scale"])
    except (OSError, ValueError, KeyError, TypeError, ModelError) as error:
        raise AdapterError(f"the MLX adapter in '{folder}' is damaged: {error}") from error
    if kind not in ("lora", "dora"):
        raise AdapterError(f"the MLX adapter in '{folder}' is of the kind {kind}; only lora and dora can be adopted")
    state, modules = {}, set()
    for name, tensor in found.items():
        match = _MLX_NAME.fullmatch(name)
        if match is None or tensor.ndim > 2:
            raise AdapterError(f"the MLX adapter in '{folder}' holds '{name}', which PEFT's LoRA has no place for")
        module, part = match["module"], match["part"]
        modules.add(module)
        state[f"{PREFIX}{module}.{_peft_part(module, part)}"] = tensor if part == "m" else tensor.T.contiguous()
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": float(parameters.get("dropout") or 0.0),
        "use_dora": kind == "dora",
        "target_modules": sorted(modules),
        "base_model_name_or_path": config.get("model"),
    }
    return settings, state


def _peft_part(module: str, part: str) -> str:
    if part == "m":
        return "lora_magnitude_vector"
    side = part[-1].upper()
    return f"lora_embedding_{side}" if module.endswith("embed_tokens") else f"lora_{side}.weight"
