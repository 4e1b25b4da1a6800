"""The base model that an adapter names: its configuration, for exports that need no weights."""

from __future__ import annotations

from typing import Any

from peftkit.config import ModelConfig
from peftkit.errors import AdapterError, ModelError
from peftkit.merge.lora_file import LoraFile
from peftkit.model.load import find_model, settings_of


def base_path(file: LoraFile, base: str | None) -> ModelConfig:
    """Return the base model that is asked for, else the one that an adapter names.

    Args:
        file: The adapter.
        base: As for `model.path`.

    Raises:
        AdapterError: Neither names one.
    """
    if base is None and file.passport is not None:
        return file.passport.config.model
    named = base or file.settings.get("base_model_name_or_path")
    if not named:
        raise AdapterError(f"the adapter in '{file.folder}' does not name its base model; name it with --base")
    return ModelConfig(path=named, revision=None if base else file.settings.get("revision"))


def base_settings(file: LoraFile, base: str | None) -> Any:
    """Return the configuration of an adapter's base model.

    Args:
        file: The adapter.
        base: As for `model.path`; None takes the one that the adapter names.

    Raises:
        AdapterError: Neither names one, or the adapter's base is not there.
    """
    model = base_path(file, base)
    try:
        return settings_of(find_model(model))
    except ModelError as error:
        if base is not None:
            raise
        raise AdapterError(f"the base model of '{file.folder}' is needed for its configuration: {error}") from error
