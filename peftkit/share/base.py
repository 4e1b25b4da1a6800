"""The base model that an adapter names, where it is on this machine; nothing is fetched for it."""

from __future__ import annotations

from pathlib import Path

from peftkit.adapter.attach import PEFT_CONFIG
from peftkit.adapter.passport import PASSPORT, read_passport
from peftkit.adapter.peft_file import read_peft_settings
from peftkit.config import ModelConfig
from peftkit.errors import PeftkitError
from peftkit.model.assets import cache_folder
from peftkit.model.convert import EMBEDDED
from peftkit.model.fingerprint import weights_folder
from peftkit.model.load import Source, find_model


def named_base(folder: Path) -> ModelConfig | None:
    """Return the base model that an adapter names; None where it names none.

    Raises:
        AdapterError: The adapter is damaged.
    """
    if (folder / PASSPORT).is_file():
        return read_passport(folder).config.model
    settings = read_peft_settings(folder / PEFT_CONFIG)
    path = settings.get("base_model_name_or_path")
    return ModelConfig(path=path, revision=settings.get("revision")) if path else None


def base_here(model: ModelConfig | None) -> Source | None:
    """Return where a base model is read from; None where it would have to be fetched, or is none."""
    if model is None:
        return None
    if model.path in EMBEDDED and not (cache_folder() / "models" / model.path).is_dir():
        return None
    try:
        source = find_model(model)
        return source if any(weights_folder(source).glob("*.safetensors")) else None
    except PeftkitError:
        return None
