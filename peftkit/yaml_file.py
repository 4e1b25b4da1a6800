"""Configuration as YAML: written with its help texts, and read strictly."""

from __future__ import annotations

import difflib
import json
import re
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import BaseModel

from peftkit.config import GROUPS, RunConfig
from peftkit.errors import ConfigError
from peftkit.rundir import write_text

MAX_FILE_BYTES = 2**16
"""Bytes of the largest file: nine times one with every key and its help text."""
MAX_VALUES = 5_000
"""Keys and values of the largest file, which a slow processor still reads in less than a second."""
_MAX_SHOWN = 200
MAX_DEPTH = 40
"""Levels of the deepest value; `group.name` and a JSON schema inside it need about ten."""


def to_yaml(config: RunConfig, *, comments: bool = False) -> str:
    """Write a configuration as YAML that `--config` reads back; with `comments`, each key has its help text."""
    lines: list[str] = [f"recipe: {_scalar(config.recipe)}", f"preset: {_scalar(config.preset)}"]
    for group in GROUPS:
        model: BaseModel = getattr(config, group)
        if comments:
            lines += ["", f"# {(type(model).__doc__ or '').strip()}"]
        lines.append(f"{group}:")
        dumped = model.model_dump(mode="json")
        for name, info in type(model).model_fields.items():
            text = f"  {name}: {_scalar(dumped[name])}"
            lines.append(f"{text}  # {info.description}" if comments else text)
    return "\n".join(lines) + "\n"


def write_yaml(path: Path, config: RunConfig) -> None:
    """Write a configuration as `load_yaml` can read it again.

    Raises:
        ConfigError: It is too large for that.
    """
    text = to_yaml(config)
    if len(text.encode()) > MAX_FILE_BYTES:
        raise ConfigError(
            f"the settings take more than {MAX_FILE_BYTES:,} bytes, so '{path}' could not be read again; give files by "
            "a folder or a glob, and shorten the longest texts"
        )
    if _values(config.model_dump(mode="json")) > MAX_VALUES:
        raise ConfigError(
            f"the settings hold more than {MAX_VALUES:,} values, so '{path}' could not be read again; shorten the "
            "longest lists"
        )
    write_text(path, text)


def _values(value: Any) -> int:
    """Count keys and values as YAML's nodes are counted."""
    if isinstance(value, dict):
        return 1 + sum(1 + _values(one) for one in value.values())
    return 1 + sum(map(_values, value)) if isinstance(value, list) else 1


def _scalar(value: Any) -> str:
    """Write a value as JSON, which YAML reads the same, but for characters that YAML takes for line ends or refuses."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


_UNSAFE = re.compile("[\x7f-\xa0\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, without aliases (which can grow without bound), tags, repeated keys and deep nesting.

    Plain words are read as YAML 1.2 does: 1.1 takes `no` and `off` for false, `0123` for 83, `2026-01-01` for a date
    and `2e-4` for text. Keys are texts as they are spelled: `1: positive` names the label 1.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 - the class's own, in place of the one it would inherit
    _depth = 0
    _values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.events.AliasEvent):
            _refuse("aliases are not allowed", event)
        if event.tag is not None:
            _refuse(f"tags such as {event.tag[:60]!r} are not allowed", event)
        if self._depth == MAX_DEPTH:
            _refuse("it is nested too deeply", event)
        if self._values == MAX_VALUES:
            _refuse(f"it holds more than {MAX_VALUES:,} keys and values", event)
        self._values += 1
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Hashable, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                _refuse("a key must be one word", key)
            if key.value in seen:
                _refuse(f"key '{key.value[:60]}' stands twice", key)
            seen[key.value] = self.construct_object(value, deep=True)
        return seen


def _refuse(what: str, place: Any) -> NoReturn:
    raise yaml.constructor.ConstructorError(None, None, what, place.start_mark)


for _tag, _pattern, _first in (
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF))|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read the keys of a configuration file.

    Raises:
        ConfigError: The file is absent, too large, not UTF-8, not YAML, or holds no keys.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"'{path}' is {'a folder' if path.is_dir() else 'no regular file'}; give a YAML file")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError(f"'{path}' is larger than {MAX_FILE_BYTES:,} bytes; it is not a configuration file")
        loaded = yaml.load(content.decode("utf-8-sig"), Loader=_StrictLoader)  # noqa: S506 - a subclass of SafeLoader
    except FileNotFoundError as error:
        raise ConfigError(f"there is no configuration file '{path}'{_near_file(path)}") from error
    except OSError as error:
        raise ConfigError(f"the configuration file '{path}' cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the configuration file '{path}' is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"the configuration file '{path}' is not valid YAML: {_where(error)}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"the configuration file '{path}' holds no keys; write for example `train:` and below it keys"
        )
    return loaded


def _near_file(path: Path) -> str:
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f"; did you mean '{near[0]}'?" if near else "; `peftkit recipes copy sentiment FILE.yaml` writes one"


def _where(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {str(error.problem)[:_MAX_SHOWN]}"
    return str(error).splitlines()[0][:_MAX_SHOWN]
