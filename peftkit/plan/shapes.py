"""The configurations of well-known models, so that a plan needs no network for them."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

from peftkit.config import ModelConfig
from peftkit.errors import ModelError, first_line
from peftkit.model.convert import EMBEDDED
from peftkit.model.load import Source, settings_of

TABLE = Path(__file__).with_name("shapes.json")
"""Published `config.json` values that decide shapes, each with the number of parameters that they give."""

_NO_SIZE = frozenset(
    ("instruct", "it", "chat", "base", "hf", "pt", "thinking", "2507", "bnb", "4bit", "unsloth", "meta")
)
"""Words of a name that say nothing of a model's size."""


def settings_for(config: ModelConfig) -> Any:
    """Return the configuration of a run's base model without fetching any of its weights.

    A folder needs its `config.json` alone; well-known models come from the table; of others the hub, or its cache,
    gives the `config.json`.

    Raises:
        ModelError: There is no such model, or no network to ask about it.
    """
    path = Path(config.path).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return _of_gguf(path)
    if (path / "config.json").is_file():
        return settings_of(Source(str(path)))
    known = known_settings(config.path) if config.revision is None else None
    if known is not None:
        return known
    if config.path in EMBEDDED or config.path.startswith((".", "/", "~")) or config.path.count("/") != 1:
        raise ModelError(
            f"'{config.path}' is no model: give a folder with config.json, a .gguf file, or a hub id such as "
            "Qwen/Qwen3-4B-Instruct-2507"
        )
    return settings_of(Source(config.path, config.revision))


def known_settings(name: str) -> Any | None:
    """Return the configuration of a well-known model by its name; None for one that the table lacks."""
    from transformers import AutoConfig

    entry = _names().get(_plain(name))
    if entry is None:
        return None
    found = _table()[entry]
    settings = AutoConfig.for_model(found["model_type"], **found["values"])
    settings.architectures = list(found.get("architectures", ()))
    return settings


def known_models() -> dict[str, int]:
    """Return the models of the table with their number of parameters."""
    return {name: entry["parameters"] for name, entry in _table().items()}


@functools.cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table


@functools.cache
def _names() -> dict[str, str]:
    return {_plain(one): name for name, entry in _table().items() for one in (name, *entry["also"])}


def _plain(name: str) -> str:
    words = re.split("[-_]", name.rpartition("/")[2].lower())
    return "-".join(word for word in words if word not in _NO_SIZE)


def _of_gguf(path: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"'{path}' cannot be read as a GGUF model: {first_line(error)}") from error
