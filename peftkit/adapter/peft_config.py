"""From `adapter.*` to PEFT's own configuration object."""

from __future__ import annotations

import dataclasses
from typing import Any

from peftkit.adapter.methods import Method, find_method
from peftkit.adapter.starts import find_start
from peftkit.config import AdapterConfig, ModelConfig
from peftkit.errors import ConfigError, first_line


def peft_config(config: AdapterConfig, task_type: str = "CAUSAL_LM", steps: int | None = None) -> Any:
    """Return PEFT's configuration object of an adapter.

    Args:
        config: The adapter's settings.
        task_type: PEFT's name of what the model does: CAUSAL_LM, SEQ_CLS or SEQ_2_SEQ_LM.
        steps: Optimizer steps of the run, which AdaLoRA plans its ranks by.

    Raises:
        ConfigError: `adapter.extra` holds a name that PEFT does not know, lacks one that the method needs, or PEFT
            refuses a value.
    """
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    method = find_method(config.method)
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[method.name.upper()]
    known = {one.name for one in dataclasses.fields(kind)} - {"peft_type", "task_type", "auto_mapping"}
    for name in config.extra:
        if name not in known or name in AdapterConfig.model_fields:
            raise ConfigError(f"adapter.extra.{name} is not an argument of PEFT's {kind.__name__} that can be set here")
    for name, what in method.needs.items():
        if name not in config.extra:
            raise ConfigError(f"adapter.method={method.name} needs adapter.extra.{name}: {what}")
    given = _arguments(config, method) | dict(method.settings) | _schedule(config, method, steps) | config.extra
    try:
        return kind(task_type=task_type, **given)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"PEFT refuses the settings of adapter.method={method.name}: {first_line(error)}") from error


def require_fitting(config: AdapterConfig, base: ModelConfig, task_type: str | None = None) -> None:
    """Refuse what is known not to work, before anything is loaded; the task is left out where it is not known yet.

    Raises:
        ConfigError: The method or its start cannot be trained on such weights, or not for this task.
    """
    method, start = find_method(config.method), find_start(config.init_lora_weights)
    held = f"model.quantization={base.quantization}"
    if reason := method.refusal(base.quantization):
        what = method.name if "none" in method.refuses else f"{method.name} cannot train on {held}"
        raise ConfigError(f"adapter.method={what}: {reason}; take another method (`peftkit methods`){_or_none(method)}")
    if reason := start.refusal(base.quantization):
        raise ConfigError(f"adapter.init_lora_weights={start.name} cannot start on {held}: {reason}")
    if config.use_dora and base.quantization == "int8":
        raise ConfigError(  # PEFT 0.21 loses the scales of 8-bit weights there, and fails at the second step
            "adapter.use_dora=true does not work on int8 weights; take model.quantization=nf4 or adapter.use_dora=false"
        )
    if task_type is not None and task_type not in method.tasks:
        raise ConfigError(
            f"adapter.method={method.name} cannot train a model for {task_type}, only for {' and '.join(method.tasks)}"
        )
    if start.name == "loftq" and config.lora_alpha != config.r:
        raise ConfigError(  # PEFT leaves the scale out of what it makes up for
            "adapter.init_lora_weights=loftq is right for a scale of one only; set adapter.lora_alpha to adapter.r, "
            f"which is {config.r}"
        )
    if config.save_as_lora and base.quantization not in method.converts:
        raise ConfigError(
            f"adapter.save_as_lora: PEFT cannot turn {method.name} into LoRA on {held}; leave it out, or take "
            "model.quantization=none"
        )


def _or_none(method: Method) -> str:
    return "" if "none" in method.refuses else " or model.quantization=none"


def _arguments(config: AdapterConfig, method: Method) -> dict[str, Any]:
    """Name the settings that several methods have as PEFT names them for this one."""
    given: dict[str, Any] = {}
    if method.rank:
        given[method.rank[0]] = config.r
    if method.alpha:
        given[method.alpha[0]] = config.lora_alpha
    if method.dropout:
        given[method.dropout] = config.lora_dropout
    if config.target_modules is not None:
        targets = list(config.target_modules)
        given["target_modules"] = targets[0] if targets == ["all-linear"] else targets
    if method.name == "lora":
        start = find_start(config.init_lora_weights)
        plain = {"true": True, "false": False}.get(start.name, start.name)
        # These are carried out by `lora_start`; to PEFT the adapter is a plain LoRA, now and when it is loaded.
        given["init_lora_weights"] = True if start.reads_base or start.name == "loftq" else plain
        given |= {"use_rslora": config.use_rslora, "use_dora": config.use_dora}
        if start.name == "eva":  # all tokens: the labels of short answers would be too few
            given["eva_config"] = {"use_label_mask": False}
    return given


def _schedule(config: AdapterConfig, method: Method, steps: int | None) -> dict[str, Any]:
    """Plan AdaLoRA's ranks: half as much again at first, kept for a tenth of the run, final for its last third.

    The shares are of the order of those in the paper's experiments (arXiv 2303.10512, appendix).
    """
    if method.name != "adalora":
        return {}
    total = config.extra.get("total_step", steps)
    if total is None:
        raise ConfigError("adapter.method=adalora needs the number of steps; set train.max_steps")
    return {
        "init_r": round(1.5 * (config.r or 1)),
        "total_step": total,
        "tinit": total // 10,
        "tfinal": total // 3,
    }
