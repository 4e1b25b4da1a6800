"""Resolve a recipe's defaults, a preset, a YAML file and `key=value` words into one `RunConfig`.

Later sources win: defaults of `RunConfig`, the recipe, its preset, the file, the words. Where each value came from is
kept, so that a run can say what differs from the recipe's defaults and why.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from peftkit.config import GROUPS, RunConfig
from peftkit.errors import ConfigError
from peftkit.recipe import Recipe, load_recipe

MAX_FILE_BYTES = 1_000_000

Flat = dict[str, Any]


@dataclass(frozen=True)
class Resolved:
    """A recipe, the configuration made of it, and the origin of each key that differs from the recipe's defaults."""

    recipe: Recipe
    config: RunConfig
    changed: Mapping[str, tuple[Any, Any, str]]
    """Key to (the recipe's value, this run's value, where it came from)."""


def resolve(
    recipe: str,
    *,
    words: Sequence[str] = (),
    file: Path | None = None,
    preset: str | None = None,
    values: Mapping[str, Any] | None = None,
) -> Resolved:
    """Build the configuration of a run.

    Args:
        recipe: Name of a recipe, or path of a recipe file (.py) or of a configuration file (.yaml) that names one.
        words: `key=value` words of the command line.
        file: YAML file with nested keys.
        preset: Name of one of the recipe's presets.
        values: Nested values from Python; they win over all others.

    Raises:
        ConfigError: A key is unknown, a value has the wrong type, or a file cannot be read.
    """
    if recipe.endswith((".yaml", ".yml")):
        if file is not None:
            raise ConfigError(f"two configuration files were given, '{recipe}' and '{file}'; give one")
        file = Path(recipe)
        recipe = ""
    loaded = _load_yaml(file) if file is not None else {}
    named = loaded.pop("recipe", None)
    recipe = recipe or named or ""
    if not recipe:
        raise ConfigError(f"'{file}' names no recipe; add a line such as `recipe: sentiment`")
    preset = preset or loaded.pop("preset", None) or "tiny"
    loaded.pop("preset", None)
    found = load_recipe(recipe)
    if preset not in found.presets:
        raise ConfigError(
            f"recipe '{found.name}' has no preset '{preset}'; it has: {', '.join(found.presets)}"
        )

    layers: list[tuple[str, Flat]] = [
        ("recipe", _flatten(found.defaults)),
        (f"preset {preset}", _flatten(found.presets[preset].values)),
        (str(file), _flatten(loaded)),
        ("command line", dict(_parse_word(word) for word in words)),
        ("Python", _flatten(values or {})),
    ]
    flat: Flat = {}
    origin: dict[str, str] = {}
    for source, layer in layers:
        for key, value in layer.items():
            _require_known(key, source)
            flat[key] = value
            origin[key] = source
    config = _validate(recipe, preset, flat, origin)
    start = _validate(recipe, preset, layers[0][1] | layers[1][1], {})
    was, now = flat_values(start), flat_values(config)
    changed = {
        key: (was.get(key), now.get(key), origin.get(key, "default"))
        for key in {**was, **now}
        if was.get(key) != now.get(key)
    }
    return Resolved(found, config, changed)


def flat_values(config: RunConfig) -> Flat:
    """Return every key of a configuration as `group.name`, the keys of mappings spelled out."""
    return _flatten({group: getattr(config, group).model_dump(mode="json") for group in GROUPS})


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
    return "null" if value is None else json.dumps(value, ensure_ascii=False)


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, without aliases (which can grow without bound) and without repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 2e-4 as text because it has no dot; people mean a number.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"'{path}' is larger than {MAX_FILE_BYTES:,} bytes; it is not a configuration file")
        text = path.read_text(encoding="utf-8-sig")
        loaded = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a subclass of SafeLoader
    except OSError as error:
        raise ConfigError(f"the configuration file '{path}' cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the configuration file '{path}' is not UTF-8 text (byte {error.start})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"the configuration file '{path}' is not valid YAML: {_where(error)}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"the configuration file '{path}' holds no keys; write for example `train:` and below it keys")
    return loaded


def _where(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).splitlines()[0]


def _parse_word(word: str) -> tuple[str, Any]:
    """Split `a.b=c`; the text stays text, and is read by the declared type of the key."""
    key, sign, text = word.partition("=")
    if not sign or not key:
        raise ConfigError(f"'{word}' is not a setting; write key=value, for example train.learning_rate=2e-4")
    if text == "null":
        return key, None
    if text[:1] in "[{":
        try:
            return key, json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{key}: '{text}' is not valid JSON ({error.msg} at character {error.pos})") from error
    return key, _extra_value(text) if ".extra." in key or ".chat_template_kwargs." in key else text


def _extra_value(text: str) -> Any:
    """Read a value whose type is not declared here: a number or true/false if it looks like one."""
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except json.JSONDecodeError:
        return text


def _flatten(nested: Mapping[str, Any]) -> Flat:
    return dict(_walk(nested, ""))


def _walk(nested: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in nested.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and key.count(".") < 2:
            yield from _walk(value, f"{key}.")
        elif not (isinstance(value, Mapping) and key.count(".") >= 1):
            yield key, value


def known_keys() -> list[str]:
    """Return every key that a configuration may hold; keys that take names of the user's own end in `.NAME`."""
    keys = []
    for group in GROUPS:
        model = RunConfig.model_fields[group].annotation
        assert isinstance(model, type) and issubclass(model, BaseModel)
        for name, info in model.model_fields.items():
            keys.append(f"{group}.{name}.NAME" if _is_mapping(info.annotation) else f"{group}.{name}")
    return keys


def _is_mapping(annotation: Any) -> bool:
    return str(annotation).startswith("dict")


def _require_known(key: str, source: str) -> None:
    known = known_keys()
    if key in known:
        return
    group, _, rest = key.partition(".")
    name, dot, own = rest.partition(".")
    if dot and own and f"{group}.{name}.NAME" in known:
        return
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6) or [
        candidate for candidate in known if candidate.split(".")[1] == key.split(".")[-1]
    ]
    hint = f"did you mean '{near[0]}'?" if near else "`peftkit recipes show NAME` lists all keys"
    raise ConfigError(f"unknown key '{key}' ({source}); {hint}")


def _validate(recipe: str, preset: str, flat: Flat, origin: Mapping[str, str]) -> RunConfig:
    nested: dict[str, Any] = {"recipe": recipe, "preset": preset}
    for key, value in flat.items():
        group, name, *own = key.split(".", 2)
        target = nested.setdefault(group, {})
        if own:
            target.setdefault(name, {})[own[0]] = value
        elif value is not None or _allows_none(group, name):
            target[name] = value
        else:
            raise ConfigError(f"{key}: null is not allowed here ({origin.get(key, 'recipe')})")
    try:
        return RunConfig.model_validate(nested)
    except ValidationError as error:
        raise ConfigError(_sentence(error, origin)) from error


def _allows_none(group: str, name: str) -> bool:
    model = RunConfig.model_fields[group].annotation
    assert isinstance(model, type) and issubclass(model, BaseModel)
    return type(None) in get_args(model.model_fields[name].annotation)


def _sentence(error: ValidationError, origin: Mapping[str, str]) -> str:
    """Turn pydantic's first complaint into one sentence with key, value, source and what is allowed."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"][:3] if not isinstance(part, int))
    key = key if key in origin else ".".join(key.split(".")[:2])
    source = origin.get(key, "recipe")
    message = first["msg"].removeprefix("Value error, ")
    if "." not in key:
        return f"{message} ({origin.get(message.split(' ')[0], source)})"
    value = first["input"]
    shown = f"{value!r}" if not isinstance(value, Mapping) else "this value"
    if first["type"] == "literal_error":
        allowed = str(first["ctx"]["expected"]).replace(" or ", ", ")
        near = difflib.get_close_matches(str(value), [word.strip("'") for word in allowed.split(", ")], n=1)
        return f"{key}: {shown} is not one of {allowed} ({source})" + (f"; did you mean '{near[0]}'?" if near else "")
    if message.startswith(key):
        return f"{message} ({source})"
    return f"{key}: {shown} is not usable: {message[:1].lower()}{message[1:]} ({source})"
