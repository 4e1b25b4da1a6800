"""The head of a model that gives labels or a score: its settings, how it starts, and that it computes in float32."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from peftkit.config import TaskConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

OUTPUTS = ("classifier", "score")
"""What transformers calls a head's last part; PEFT trains it whole and saves it with the adapter."""

UNQUANTIZED = (*OUTPUTS, "pre_classifier", "pooler", r".*\.pooler", "head", "sequence_summary", "logits_proj")
"""Parts that a head can consist of, as patterns: small, and often not in the stored weights, so never quantized."""


def head_settings(task: TaskConfig) -> dict[str, Any]:
    """Return what a model's configuration says of its head: its outputs, their names, and so the kind of loss."""
    if task.kind == "regression":
        return {"problem_type": "regression", "num_labels": 1, "id2label": {0: "score"}, "label2id": {"score": 0}}
    labels = task.labels or ()
    return {
        "problem_type": "multi_label_classification" if task.multi_label else "single_label_classification",
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
    }


def has_other_head(stored: Any, task: TaskConfig) -> bool:
    """Whether a model was stored with a head whose outputs mean something else than the task's.

    Args:
        stored: The configuration that the model was stored with.
        task: The task; unnamed outputs of the right number (`LABEL_0`, ...) are taken to be its labels in their order.
    """
    names = [str(stored.id2label[number]).casefold() for number in sorted(stored.id2label)]
    wanted = [label.casefold() for label in head_settings(task)["id2label"].values()]
    unnamed = [f"label_{number}" for number in range(len(wanted))]
    return names != wanted and names != unnamed


def is_of_head(model: PreTrainedModel, parameter: str) -> bool:
    """Whether a parameter stands after the base model, or pools what that gives."""
    return not parameter.startswith(f"{model.base_model_prefix}.") or ".pooler." in parameter


def start_head(model: PreTrainedModel, fresh: Collection[str], seed: int) -> None:
    """Start the parameters that no stored weights were found for, and let the head alone be trained, in float32.

    The start is the model's own, drawn on the processor: the same on every machine and in every dtype.

    Args:
        model: A model with a head; changed in place, all of it frozen but for its head.
        fresh: Names of the parameters to start.
        seed: Seed of the start.
    """
    import torch

    device = model.device
    model._is_hf_initialized = False  # the mark by which transformers leaves out what was loaded
    parts = open_head(model, fresh)
    for prefix, part in parts.items():
        part.to("cpu")
        for module in part.modules():
            module._is_hf_initialized = False
        for name, parameter in part.named_parameters():
            parameter._is_hf_initialized = f"{prefix}.{name}" not in fresh
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.initialize_weights()
    for part in parts.values():
        part.to(device)


def open_head(model: PreTrainedModel, fresh: Collection[str]) -> dict[str, Any]:
    """Freeze a model but for its head, which computes in float32 from here on; return the head's modules by name.

    Args:
        model: A model with a head; changed in place.
        fresh: Names of the parameters that no stored weights were found for.
    """
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name in fresh or name.split(".")[0] in OUTPUTS:
            parameter.requires_grad_(True)
    parts = {name: model.get_submodule(name) for name in head_modules(model)}
    for part in parts.values():
        part.float()
        part.register_forward_pre_hook(_as_float32)
    return parts


def head_modules(model: PreTrainedModel) -> list[str]:
    """Return the modules of a loaded model that are trained whole and saved with the adapter: those not frozen."""
    return list(_trained(model, ""))


def _trained(module: torch.nn.Module, prefix: str) -> Iterator[str]:
    for name, child in module.named_children():
        flags = [parameter.requires_grad for parameter in child.parameters()]
        if flags and all(flags):
            yield prefix + name
        elif any(flags):
            yield from _trained(child, f"{prefix}{name}.")


def _as_float32(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    import torch

    return tuple(one.float() if isinstance(one, torch.Tensor) and one.is_floating_point() else one for one in inputs)
