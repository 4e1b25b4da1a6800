"""What must not be shared: keys, mail addresses, passwords in addresses, and folders of this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from peftkit.data.personal import TOKENS, kinds_in

KINDS = TOKENS | {"mail address", "card number", "IBAN"}
"""Of all kinds of personal data those that no text of an adapter needs. Numbers of versions pass for IP addresses and
telephones too often."""
HOME = "folder of a person"
PASSWORD = "password in an address"  # noqa: S105 - the name of a kind
_HOME = re.compile(r"(?:/home/|/Users/|[A-Za-z]:[\\/]+Users[\\/]+)[^/\\\s\"']+|(?<![\w~])~[\\/]\w|/root/")
_PASSWORD = re.compile(r"\w://[^/\s:@]+:[^/\s@]+@")
_WORD = re.compile(r"([A-Za-z][A-Za-z0-9_]+):(?!//)(.+)", re.DOTALL)
_PLACES = {"path", "test_path", "base_model_name_or_path", "name_or_path", "tokenizer_name_or_path", "recipe", "name"}


def secrets_in(text: str) -> list[str]:
    """Name the kinds of what must not be shared in a text, each once."""
    found = [kind for kind in dict.fromkeys(kinds_in(text)) if kind in KINDS]
    found += [HOME] if _HOME.search(text) else []
    return found + ([PASSWORD] if _PASSWORD.search(text) else [])


def texts_of(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Give each text in a JSON value, names among them, with its place, such as `config.data.path[0]`."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for name, one in value.items():
            inside = f"{place}.{name}" if place else name
            yield inside, name
            yield from texts_of(one, inside)
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            yield from texts_of(one, f"{place}[{number}]")


def without_folders(value: Any, name: str = "") -> Any:
    """Return a JSON value in which a path says no more than the name at its end.

    Args:
        value: The value.
        name: The setting that it belongs to; only those that hold paths or names of places are changed.
    """
    if isinstance(value, dict):
        return {key: without_folders(one, key) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(one, name) for one in value]
    return without_folder(value) if isinstance(value, str) and name in _PLACES else value


def without_folder(path: str) -> str:
    """Return `./NAME` for a path that says where it is on this machine; other words as they are.

    `./` keeps it from being taken for the name of a model on a hub. A word before a colon stays: `lines:/a/b.txt`. The
    address of a database becomes the name of a variable that it can be put into, as `data.path=sql:$URL#QUERY` says it.
    """
    if path.startswith("sql:") and not path.startswith("sql:$"):
        _, mark, query = path.partition("#")
        return f"sql:$URL{mark}{query}"
    word = _WORD.fullmatch(path)
    if word and len(word[1]) > 1:
        inside = without_folder(word[2])
        return f"{word[1]}:{inside}"
    plain = path.removeprefix("file://")
    windows = bool(re.match(r"[A-Za-z]:[\\/]|\\\\", plain))
    if not (windows or plain.startswith(("/", "~/", "../"))):
        return path
    kind = PureWindowsPath if windows else PurePosixPath
    return f"./{kind(plain).name}"
