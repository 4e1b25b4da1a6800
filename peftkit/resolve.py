"""Resolve a recipe's defaults, a preset, a YAML file and `key=value` words into one `RunConfig`.

Later sources win: defaults of `RunConfig`, the recipe, its preset, the file, the words. Where each value came from is
kept, so that a run can say what differs from the recipe's defaults and why.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from peftkit import machine
from peftkit.adapter.methods import find_method
from peftkit.adapter.peft_config import peft_config, require_fitting
from peftkit.config import GROUPS, AdapterConfig, ModelConfig, RunConfig, TaskConfig, TrainConfig
from peftkit.data.encode import placeholders
from peftkit.data.sources import redact_source
from peftkit.errors import ConfigError
from peftkit.recipe import Recipe, is_recipe_file, load_recipe
from peftkit.tokens import masked, require_characters, require_writable
from peftkit.train.checks import check_training
from peftkit.yaml_file import load_yaml

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
    own_run: bool = False,
) -> Resolved:
    """Build the configuration of a run.

    Args:
        recipe: Name of a recipe, or path of a recipe file (.py) or of a configuration file (.yaml) that names one.
        words: `key=value` words of the command line.
        file: YAML file with nested keys.
        preset: Name of one of the recipe's presets.
        values: Nested values from Python; they win over all others.
        own_run: The configuration file is that of a run of the user's own, which may name a recipe file. Any other one
            may come from anybody, and no file chooses code that is run.

    Raises:
        ConfigError: A key is unknown, a value has the wrong type or does not fit the recipe, or a file cannot be read.
    """
    if recipe.endswith((".yaml", ".yml")):
        if file is not None:
            raise ConfigError(f"two configuration files were given, '{recipe}' and '{file}'; give one")
        file = Path(recipe)
        recipe = ""
    loaded = load_yaml(file) if file is not None else {}
    named = {name: loaded.pop(name, None) for name in ("recipe", "preset")}
    for name, value in named.items():
        if not isinstance(value, str | None):
            raise ConfigError(f"{name}: {value!r} is not usable: a name is expected ({file})")
    if not recipe and not own_run and is_recipe_file(named["recipe"] or ""):
        raise ConfigError(
            f"'{file}' names the recipe file '{named['recipe']}', and a configuration file cannot choose code that is "
            f"run; if you trust it, name it yourself: {named['recipe']} --config {file}"
        )
    recipe = recipe or named["recipe"] or ""
    if not recipe:
        if file is None:
            raise ConfigError("no recipe is named; `peftkit recipes` lists them")
        raise ConfigError(f"'{file}' names no recipe; add a line such as `recipe: sentiment`")
    preset = preset or named["preset"] or "tiny"
    found = load_recipe(recipe)
    if preset not in found.presets:
        raise ConfigError(f"recipe '{found.name}' has no preset '{preset}'; it has: {', '.join(found.presets)}")

    layers: list[tuple[str, Flat]] = [
        ("recipe", _flatten(found.defaults)),
        (f"preset {preset}", _flatten(found.presets[preset].values)),
        (str(file), _flatten(loaded)),
        ("command line", _flatten(dict(_parse_word(word) for word in words))),
        ("Python", _flatten(values or {})),
    ]
    flat: Flat = {}
    origin: dict[str, str] = {}
    for source, layer in layers:
        for key, value in layer.items():
            require_characters(key, value, source)
            _require_known(key, source)
            flat[key] = value
            origin[key] = source
    config = _validate(recipe, preset, flat, origin)
    _require_fitting(found, config, flat, origin)
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


def _parse_word(word: str) -> tuple[str, Any]:
    """Split `a.b=c`; the text stays text, to be read by the declared type of its key, unless none is declared."""
    key, sign, text = word.partition("=")
    if not sign or not key:
        raise ConfigError(f"'{word}' is not a setting; write key=value, for example train.learning_rate=2e-4")
    if text == "null":
        return key, None
    free = key.split(".")[1:2] in (["extra"], ["chat_template_kwargs"], ["optim_args"])
    if text.startswith("{") and (free or f"{key}.NAME" in known_keys()):
        return key, _json(key, text)
    if text.startswith("[") and (free or key in _list_keys()):
        return key, _json(key, text)
    return key, _undeclared(text) if free else text


def _json(key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{key}: '{text}' is not valid JSON ({error.msg} at character {error.pos})") from error


def _undeclared(text: str) -> Any:
    """Read a value whose type is not declared here: a number or true/false if it looks like one."""
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text, parse_constant=str)
    except json.JSONDecodeError:
        return text


def _flatten(nested: Mapping[str, Any]) -> Flat:
    flat: Flat = {}
    for key, value in _walk(nested, ""):
        if key in flat:
            raise ConfigError(f"key '{key}' is given twice, once with a dot; leave one out")
        flat[key] = value
    return flat


def _walk(nested: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Go down to the keys that are known; what stands below one is its value, and an empty group is nothing."""
    for name, value in nested.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and not _is_known(key):
            yield from _walk(value, f"{key}.")
        elif value is not None or not (key in GROUPS or f"{key}.NAME" in known_keys()):
            yield key, value


@functools.cache
def known_keys() -> tuple[str, ...]:
    """Return every key that a configuration may hold; keys that take names of the user's own end in `.NAME`."""
    keys = []
    for group in GROUPS:
        for name, info in _group(group).model_fields.items():
            keys.append(f"{group}.{name}.NAME" if _is_mapping(info.annotation) else f"{group}.{name}")
    return tuple(keys)


def _group(name: str) -> type[BaseModel]:
    model = RunConfig.model_fields[name].annotation
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    return model


def _is_mapping(annotation: Any) -> bool:
    return str(annotation).startswith("dict")


def _list_keys() -> list[str]:
    return [key for key in known_keys() if "tuple[" in str(_annotation(key))]


def _is_known(key: str) -> bool:
    group, name, own = (*key.split(".", 2), "", "")[:3]
    known = known_keys()
    return key in known or (bool(own) and f"{group}.{name}.NAME" in known)


def _require_known(key: str, source: str) -> None:
    if not _is_known(key):
        raise ConfigError(f"unknown key '{key}' ({source}); {_advice(key)}")


def _advice(key: str) -> str:
    known = known_keys()
    if key == "recipe":
        return "the recipe is the first argument, or stands alone in a file as `recipe: NAME`"
    if key == "preset":
        return "choose a preset with --preset, or in a file with `preset: NAME`"
    if key in GROUPS:
        return f"it is a group of keys, such as {next(one for one in known if one.startswith(f'{key}.'))}"
    if f"{key}.NAME" in known:
        return f"it takes names of your own, written as {key}.NAME"
    name = [*key.split("."), key][1]
    by_name = {one.split(".")[1]: one for one in known}
    near = [one for one in known if one.split(".")[1] == name]
    near += difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    near += [by_name[other] for other in difflib.get_close_matches(name, by_name, n=1, cutoff=0.7)]
    return f"did you mean '{near[0]}'?" if near else "`peftkit recipes show NAME` lists all keys"


def _validate(recipe: str, preset: str, flat: Flat, origin: Mapping[str, str]) -> RunConfig:
    nested: dict[str, Any] = {"recipe": recipe, "preset": preset}
    for key, value in flat.items():
        group, name, *own = key.split(".", 2)
        target = nested.setdefault(group, {})
        if own:
            target.setdefault(name, {})[own[0]] = value
        elif _allows_none(group, name):
            target[name] = None if value == "" else value
        elif value is None:
            raise ConfigError(f"{key}: null is not allowed here ({origin.get(key, 'recipe')}); leave the key out")
        else:
            target[name] = value
    try:
        return RunConfig.model_validate(nested)
    except ValidationError as error:
        raise ConfigError(_sentence(error, origin)) from error


def _annotation(key: str) -> Any:
    group, name = key.split(".")[:2]
    return _group(group).model_fields[name].annotation


def _allows_none(group: str, name: str) -> bool:
    return type(None) in get_args(_annotation(f"{group}.{name}"))


def _sentence(error: ValidationError, origin: Mapping[str, str]) -> str:
    """Turn pydantic's first complaint into one sentence with key, value, source and what is allowed."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    key = ".".join(str(part) for part in first["loc"][:3] if not isinstance(part, int))
    if "." not in key:  # a complaint about several keys, which it names
        sources = dict.fromkeys(where for one, where in origin.items() if one in message and where != "recipe")
        return f"{message} ({', '.join(sources) or 'recipe'})"
    key = key if key in origin else ".".join(key.split(".")[:2])
    source = origin.get(key, "recipe")
    value = masked(repr(first["input"]))  # before it is cut: half a token is not known for one
    kinds = [one["type"].split("_")[0] for one in error.errors() if one["loc"][:3] == first["loc"][:3]]
    value = value if len(value) <= _MAX_SHOWN else f"{value[: _MAX_SHOWN - 3]}..."
    if first["type"] == "literal_error":
        allowed = str(first["ctx"]["expected"]).replace(" or ", ", ")
        near = _did_you_mean(str(first["input"]), [word.strip("'") for word in allowed.split(", ")])
        return f"{key}: {value} is not one of {allowed} ({source}){near}"
    known = [_EXPECTED[kind] for kind in dict.fromkeys(kinds) if kind in _EXPECTED]
    expected = ", or ".join(known) or message.replace("Input should be", "it must be")
    return f"{key}: {value} is not usable: {expected} ({source})"


_MAX_SHOWN = 80
_EXPECTED = {
    "int": "a whole number is expected",
    "float": "a number is expected",
    "bool": "true or false is expected",
    "string": "text is expected; put quotes around what looks like something else",
    "tuple": "a list is expected, such as [a, b]",
    "too": "at least one is expected",
}
"""What is expected, by the first word of pydantic's type of complaint."""


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _require_fitting(recipe: Recipe, config: RunConfig, given: Flat, origin: Mapping[str, str]) -> None:
    """Refuse what the recipe or another library knows to be wrong, before anything is read or written."""
    columns = ", ".join(recipe.columns)
    if (needed := _COLUMN_OF_KIND.get(config.task.kind)) and needed not in recipe.columns:
        raise ConfigError(
            f"task.kind={config.task.kind} needs a column '{needed}', and recipe '{recipe.name}' has: {columns} "
            f"({origin.get('task.kind', 'recipe')})"
        )
    for name in config.data.columns:
        if name not in recipe.columns:
            source = origin.get(f"data.columns.{name}", "recipe")
            raise ConfigError(
                f"data.columns.{name}: recipe '{recipe.name}' has no column '{name}', it has: {columns} ({source})"
                + _did_you_mean(name, recipe.columns)
            )
    _require_templates(recipe, config, origin)
    if config.data.format != "auto" and config.task.kind != "chat":
        raise ConfigError(
            f"data.format={config.data.format} is for task.kind=chat, and this is task.kind={config.task.kind}; name "
            f"columns with data.columns.NAME=<column> ({origin.get('data.format', 'recipe')})"
        )
    for key, words in (("data.path", config.data.path), ("data.test_path", config.data.test_path)):
        if any(redact_source(word) != word for word in words or ()):
            raise ConfigError(
                f"{key}: the password would be written into the run's files; put the URL into an environment variable "
                f"and write sql:$NAME#query ({origin.get(key, 'recipe')})"
            )
    for key, value in given.items():
        require_writable(key, value, origin.get(key, "recipe"))
    for group in (config.model, config.adapter, config.train):
        _require_free(group, origin)
    defaults = TrainConfig.model_fields
    named = any(getattr(config.train, key) != defaults[key].default for key in ("optim", "lr_scheduler_type"))
    needs_peft = bool(config.adapter.extra or find_method(config.adapter.method).needs)
    if named or needs_peft or config.train.extra:
        machine.quiet_libraries()  # these checks import libraries, and bitsandbytes remarks on its kernels then
    check_training(config, origin)
    require_fitting(config.adapter, config.model)
    if needs_peft:
        peft_config(config.adapter, steps=config.train.max_steps or 1)
    if config.train.extra:
        import torch

        from peftkit.train.arguments import training_arguments

        training_arguments(config.train, Path("checkpoints"), torch.float32)


_COLUMN_OF_KIND = {"classification": "label", "regression": "score", "chat": "messages", "completion": "text"}


def _require_templates(recipe: Recipe, config: RunConfig, origin: Mapping[str, str]) -> None:
    """Refuse prompts and completions that name no column, another recipe's, or the answer itself."""
    if config.task.kind in ("chat", "completion"):  # these take the row as it is
        return
    columns = ", ".join(recipe.columns)
    answered = {"classification": "{label}", "regression": "{score}"}.get(config.task.kind, config.task.completion)
    if config.task.completion not in (answered, TaskConfig.model_fields["completion"].default):
        raise ConfigError(
            f"task.completion: '{config.task.completion}' does not go with task.kind={config.task.kind}, whose answer "
            f"is the column {answered} ({origin.get('task.completion', 'recipe')}); leave it out"
        )
    for key, template in (("task.prompt", config.task.prompt), ("task.completion", answered)):
        source = origin.get(key, "recipe")
        for name in placeholders(template):
            if name not in recipe.columns:
                raise ConfigError(
                    f"{key}: {{{name}}} is no column of recipe '{recipe.name}', which has: {columns} ({source})"
                    + _did_you_mean(name, recipe.columns)
                )
        if not placeholders(template):
            raise ConfigError(
                f"{key}: '{template}' holds no column, so it would be the same for every row; "
                f"write one of the columns {columns} in braces ({source})"
            )
    if set(placeholders(answered)) <= set(placeholders(config.task.prompt)):
        raise ConfigError(
            f"task.prompt: '{config.task.prompt}' holds all of task.completion, '{answered}', so the "
            f"model would be shown the answer ({origin.get('task.prompt', 'recipe')}); take it out of the prompt"
        )


def _require_free(group: ModelConfig | AdapterConfig | TrainConfig, origin: Mapping[str, str]) -> None:
    prefix = type(group).__name__.removesuffix("Config").lower()
    for name in group.extra:
        source = origin.get(f"{prefix}.extra.{name}", "recipe")
        if name in type(group).model_fields:
            raise ConfigError(f"{prefix}.extra.{name} is a key of its own; set {prefix}.{name} ({source})")
