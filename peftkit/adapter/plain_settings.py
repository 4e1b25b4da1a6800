"""PEFT's settings of an adapter without what says nothing, so that older readers do not meet words they do not know."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from peftkit.adapter.int8_file import INT8_TYPE

_NEVER = ("auto_mapping", "peft_version")  # the former imports a module; the latter is new in PEFT 0.18
_PARTS_OF = {"qalora_group_size": "use_qalora", "megatron_core": "megatron_config"}
"""Settings that say something only where another one is used."""


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of PEFT's settings what is null, off as it is by default, or part of what is.

    So are all settings that came since PEFT 0.17 unless they are used. What is on by default, such as a rank, stays:
    not every reader knows PEFT's defaults.

    Args:
        settings: The content of an `adapter_config.json`.
    """
    usual = _defaults(settings)

    def says_something(name: str) -> bool:
        value = settings[name]
        if value is None or name in _NEVER or (name in _PARTS_OF and not settings.get(_PARTS_OF[name])):
            return False
        return bool(value) or value != usual.get(name)

    return {name: value for name, value in settings.items() if says_something(name)}


def unknown_settings(settings: Mapping[str, Any]) -> list[str]:
    """Return the names of settings that this PEFT does not know; none where it does not know the method either."""
    known = _defaults(settings)
    return sorted(settings.keys() - known.keys() - set(_NEVER)) if known else []


def _defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return PEFT's default of each setting of a method; nothing for one that it does not know."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    method = settings.get("peft_type")
    kind = PEFT_TYPE_TO_CONFIG_MAPPING.get("LORA" if method == INT8_TYPE else method)
    return {one.name: _default(one) for one in dataclasses.fields(kind)} if kind else {}


def _default(one: dataclasses.Field[Any]) -> Any:
    return one.default_factory() if one.default_factory is not dataclasses.MISSING else one.default
