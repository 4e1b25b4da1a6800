"""Configuration as YAML: written with its help texts, and read strictly."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from peftkit.config import GROUPS, RunConfig
from peftkit.errors import ConfigError

MAX_FILE_BYTES = 1_000_000


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


def _scalar(value: Any) -> str:
    """Write a value as JSON, which YAML reads the same, but for characters that YAML takes for line ends or refuses."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


_UNSAFE = re.compile("[\x7f-\xa0\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, without aliases (which can grow without bound) and without repeated keys.

    Plain words are read as YAML 1.2 does: 1.1 takes `no` and `off` for false, `0123` for 83, `2026-01-01` for a date
    and `2e-4` for text.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 - the class's own, in place of the one it would inherit

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be one word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


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
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"'{path}' is larger than {MAX_FILE_BYTES:,} bytes; it is not a configuration file")
        text = path.read_text(encoding="utf-8-sig")
        loaded = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a subclass of SafeLoader
    except FileNotFoundError as error:
        raise ConfigError(f"there is no configuration file '{path}'{_near_file(path)}") from error
    except OSError as error:
        raise ConfigError(f"the configuration file '{path}' cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the configuration file '{path}' is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
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
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).splitlines()[0]
