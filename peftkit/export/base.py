"""The base model that an adapter names, for exports that need its configuration and no weights."""

from __future__ import annotations

from typing import Any

from peftkit.config import ModelConfig
from peftkit.errors import AdapterError, ModelError
from peftkit.merge.lora_file import LoraFile
from peftkit.model.load import Source, find_model, settings_of


def base_of(file: LoraFile, base: str | None) -> tuple[Source, Any]:
    """Return an adapter's base model: where it is, and its configuration.

    Args:
        file: The adapter.
        base: As for `model.path`; None takes the one that the adapter names.

    Raises:
        AdapterError: Neither names one, or the one that the adapter names is not there.
        ModelError: The one that was asked for is not there.
    """
    model = _named(file, base)
    try:
        source = find_model(model)
        return source, settings_of(source)
    except ModelError as error:
        if base is not None:
            raise
        raise AdapterError(f"the base model of '{file.folder}' is needed for its configuration: {error}") from error


def _named(file: LoraFile, base: str | None) -> ModelConfig:
    if base is None and file.passport is not None:
        return file.passport.config.model
    named = base or file.settings.get("base_model_name_or_path")
    if not named:
        raise AdapterError(f"the adapter in '{file.folder}' does not name its base model; name it with --base")
    return ModelConfig(path=named, revision=None if base else file.settings.get("revision"))
