"""Tokens and passwords: refused among settings, which are written into a run's files, and masked in what is said."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from peftkit.data.personal import TOKENS, kinds_in, without_tokens
from peftkit.errors import ConfigError

MASK = "***"
_LEAST_VALUE = 12  # characters; a shorter value of a variable could be any word
_PASSWORD = re.compile(r"(?<=\w://)[^/\s:@]+:[^/\s@]+(?=@)")
_NAMES = re.compile(
    r"(?:^|_)(?:(?:hub|hf|auth|access|api|bearer|refresh)_?token|(?:api|access|secret|private)_?key|passw(?:or)?d|secret"
    r"|credentials?)$|^token$",
    re.IGNORECASE,
)
_VARIABLES = re.compile(r"(?:^|_)(?:TOKEN|(?:API|ACCESS|SECRET|PRIVATE)_?KEY|SECRET|PASSW(?:OR)?D)$", re.IGNORECASE)
_FREE = ("extra", "chat_template_kwargs")  # where keys are named by other libraries
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def masked(text: str) -> str:
    """Return a text without tokens, passwords in addresses, and values of variables that are named after secrets."""
    for value in sorted(_values_of_variables(), key=len, reverse=True):
        text = text.replace(value, MASK)
    return _PASSWORD.sub(MASK, without_tokens(text, MASK))


def require_characters(key: str, value: Any, source: str) -> None:
    """Refuse half a character in a text of a setting, which no library takes; raises `ConfigError`."""
    for place, one in _parts(key, value):
        if _HALF_CHARACTER.search(f"{place}{one}"):
            shown = _HALF_CHARACTER.sub("?", key)
            raise ConfigError(f"{shown}: a text holds half a character, which cannot be written ({source}); mend it")


def require_writable(key: str, value: Any, source: str) -> None:
    """Refuse a value of a setting that cannot be written into a run's files, or must not be.

    Args:
        key: The setting, such as `model.extra.token`.
        value: Its value as it was given.
        source: Where it was given, such as `command line`.

    Raises:
        ConfigError: It is no value of JSON, a number that is not finite, or a secret.
    """
    for place, one in _parts(key, value):
        if isinstance(one, float) and not math.isfinite(one):
            raise ConfigError(f"{place}: {one} is not usable: a finite number is expected ({source})")
        if not isinstance(one, str | int | float | None):
            raise ConfigError(f"{place}: a value of type {type(one).__name__} cannot be written down ({source})")
        if _is_secret(place, one):
            raise ConfigError(
                f"{masked(place)}: a token or password would be written into the run's files ({source}); leave it out, "
                "and set a variable of the environment such as HF_TOKEN, or run `hf auth login`"
            )


def _parts(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Give each value inside a value, with its place."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _parts(f"{place}.{name}", one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _parts(place, one)
    else:
        yield place, value


def _is_secret(place: str, value: str | int | float | None) -> bool:
    _, group, *_, name = place.split(".") if place.count(".") > 1 else ("", "", place)
    text = value if isinstance(value, str) else ""
    if text and group in _FREE and _NAMES.search(name):
        return True
    whole = f"{name}\n{text}"
    if any(kind in TOKENS for kind in kinds_in(whole)) or any(one in whole for one in _values_of_variables()):
        return True
    return _PASSWORD.search(text) is not None


def _values_of_variables() -> Iterator[str]:
    for name, value in os.environ.items():
        if _VARIABLES.search(name) and len(value) >= _LEAST_VALUE:
            yield value
