"""Weights of the base model that PEFT saves beside an adapter of embeddings: gigabytes that the base has anyway."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.config import ModelConfig
from peftkit.errors import AdapterError
from peftkit.model.fingerprint import weights_folder
from peftkit.model.weight_files import weight_files
from peftkit.share.base import base_here, named_base

if TYPE_CHECKING:
    import torch

_OF_BASE = re.compile(r"(?:base_model\.model\.)?(.+)\.base_layer\.(weight|bias)")


def base_weights_in(folder: Path, state: Mapping[str, torch.Tensor], base: str | None) -> list[str]:
    """Return the names of tensors that are the base model's own.

    PEFT saves them under `base_layer` where an adapter is for the embeddings or the output layer. Where the base is on
    this machine they are compared with it: embeddings that were enlarged belong to the adapter.

    Args:
        folder: The adapter's folder.
        state: Its tensors.
        base: The base model; None takes the one that the adapter names.

    Raises:
        AdapterError: They are other weights than those of the base.
    """
    found = {name: match for name in state if (match := _OF_BASE.fullmatch(name))}
    source = base_here(ModelConfig(path=base) if base else named_base(folder)) if found else None
    for name, match in found.items():
        own = _tensor(weights_folder(source), f"{match[1]}.{match[2]}") if source else None
        if own is not None and not _same(own, state[name]):
            raise AdapterError(
                f"the adapter in '{folder}' is not shared: '{name}' differs from the base model's own weights, which "
                "were changed or enlarged; save it with modules_to_save in their place"
            )
    return sorted(found)


def _tensor(folder: Path, name: str) -> torch.Tensor | None:
    """Read a tensor of the base model by its name; of an output layer that has none, the embeddings that it shares."""
    stored = {one.name: one for file in weight_files(folder) for one in file.tensors}
    ending = name.rpartition(".")[2]
    shared = next((one for one in stored if one.endswith(f"embed_tokens.{ending}")), None)
    found = stored.get(name) or (stored.get(shared) if shared and name.startswith("lm_head.") else None)
    if found is None:
        return None
    with found.file.open("rb") as stream:
        return found.read_rows(stream, 0, found.rows).reshape(found.shape)


def _same(own: torch.Tensor, saved: torch.Tensor) -> bool:
    return own.shape == saved.shape and bool((own.to(saved.dtype) == saved).all())
