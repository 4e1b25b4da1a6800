"""What `peftkit methods` says: the facts of `methods.py` and `starts.py` beside what was seen, `methods.json`."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Any

from peftkit.adapter.methods import BASES, FIGURES, METHODS, Method, find_method
from peftkit.adapter.starts import STARTS
from peftkit.errors import ConfigError
from peftkit.ui import UI

_VARIANTS = {
    "lora use_rslora": ("higher ranks: scales the update by 1/sqrt(r), so that it does not fade", "2312.03732"),
    "lora use_dora": ("learns size and direction of weights apart: slower, at times better", "2402.09353"),
}


def list_methods() -> list[dict[str, Any]]:
    """Return each method, LoRA's two variants and its starts, as JSON values.

    `works` is true or the reason why not, for each way in which a base model is held; `relative_parameters` is what is
    trained over what LoRA with r=16 trains on SmolLM2-135M, each at its usual values; null where nothing is trained.
    """
    rows = [_row(one.name, one.when, one.paper, one) for one in METHODS]
    lora = find_method("lora")
    more = [_row(name, when, paper, lora, figures=False) for name, (when, paper) in _VARIANTS.items()]
    more += [_row(f"lora {one.name}", one.when, one.paper, lora, figures=False) for one in STARTS if one.name != "true"]
    return rows[:1] + more + rows[1:]


def _row(name: str, when: str, paper: str | None, method: Method, *, figures: bool = True) -> dict[str, Any]:
    seen = _seen()[name]
    return {
        "name": name,
        "setting": _setting(name),
        "when": when,
        "paper": paper and f"https://arxiv.org/abs/{paper}",
        "works": {base: seen[base].get("refused", True) for base in BASES},
        "relative_parameters": seen["relative_parameters"],
        "converts_to_lora": list(BASES) if method.name == "lora" else list(method.converts),
        "accuracy": method.accuracy[0] if figures and method.accuracy else None,
        "experiment": method.accuracy[1] if figures and method.accuracy else None,
    }


def _setting(name: str) -> str:
    method, _, kind = name.partition(" ")
    if not kind:
        return f"adapter.method={method}"
    return f"adapter.{kind}=true" if kind.startswith("use_") else f"adapter.init_lora_weights={kind}"


@functools.cache
def _seen() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(files("peftkit.adapter").joinpath("methods.json").read_text(encoding="utf-8"))
    methods: dict[str, Any] = found["methods"]
    return methods


def show_methods(ui: UI) -> None:
    """Show all methods, one a line."""
    rows = [
        (
            row["name"],
            *("yes" if row["works"][base] is True else "no" for base in BASES),
            parameters(row["relative_parameters"]),
            "yes" if row["converts_to_lora"] else "no",
            row["when"],
        )
        for row in list_methods()
    ]
    ui.table(("method", *BASES, ">trained", "LoRA", "when to choose it"), rows)
    ui.note(
        "none, nf4, int8: trains on a base model that is held so; trained: parameters over those of LoRA with r=16;"
    )
    ui.note("LoRA: can be saved as LoRA; `peftkit methods NAME` says more, such as why one is refused")


def parameters(relative: float | None) -> str:
    """Write a share of LoRA's parameters."""
    return "-" if relative is None else f"{relative:.2g}x" if relative < 10 else f"{relative:.0f}x"


def describe_method(name: str) -> dict[str, Any]:
    """Return one method with PEFT's arguments for it, as JSON values.

    Raises:
        ConfigError: There is no such method.
    """
    import dataclasses

    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    try:
        method = find_method(name)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[method.name.upper()]
    keys = {
        "adapter.r": method.rank,
        "adapter.lora_alpha": method.alpha,
        "adapter.lora_dropout": (method.dropout, 0.0) if method.dropout else None,
        "adapter.target_modules": None if method.targets == "-" else ("target_modules", method.targets),
    }
    taken = {pair[0] for pair in keys.values() if pair} | {"use_rslora", "use_dora", "init_lora_weights"}
    hidden = taken | {"peft_type", "task_type", "auto_mapping", "inference_mode", "base_model_name_or_path", "revision"}
    return {
        **next(row for row in list_methods() if row["name"] == method.name),
        "title": method.title,
        "keys": {key: {"argument": pair[0], "usual": pair[1]} for key, pair in keys.items() if pair},
        "set_here": dict(method.settings),
        "needed": {f"adapter.extra.{one}": what for one, what in method.needs.items()},
        "extra": sorted(one.name for one in dataclasses.fields(kind) if one.name not in hidden),
    }


def show_method(ui: UI, name: str) -> None:
    """Show one method with its arguments; LoRA with its starts."""
    one = describe_method(name)
    ui.say(f"{one['name']}: {one['title']}", style="bold")
    ui.say(f"{one['when']}{'; ' + one['paper'] if one['paper'] else ''}")
    for base, works in one["works"].items():
        ui.say(f"  model.quantization={base}: {'works' if works is True else works}")
    for key, value in one["keys"].items():
        usual = "chosen by PEFT for the kind of model" if value["usual"] is None else value["usual"]
        ui.say(f"  {key}: PEFT's {value['argument']}; usually {usual}")
    for key, value in one["set_here"].items():
        ui.say(f"  adapter.extra.{key}: {value} unless you set it")
    for key, what in one["needed"].items():
        ui.say(f"  {key}: must be given; {what}")
    ui.say(f"  adapter.extra.NAME: {', '.join(one['extra'])}")
    if one["accuracy"] is not None:
        ui.note(f"{one['accuracy']:.3f} in '{one['experiment']}': {FIGURES}.")
    if one["name"] == "lora":
        ui.table(
            ("how LoRA can differ", "when to choose it"),
            [(row["setting"], row["when"]) for row in list_methods() if row["name"].startswith("lora ")],
        )
