"""What AdaLoRA and AdaMSS need from the training loop, which PEFT leaves to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from peftkit.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

_SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


def after_optimizer_step(model: PeftModel, step: int) -> None:
    """Let a method that moves ranks between layers do so; other methods are left alone.

    Args:
        model: The adapted model, with the gradients of this step.
        step: Number of the optimizer step, from 0.
    """
    if model.peft_config["default"].peft_type.value in ("ADALORA", "ADAMSS"):
        model.base_model.update_and_allocate(step)


def orthogonality_penalty(model: PeftModel) -> torch.Tensor | None:
    """Return what AdaLoRA adds to the loss to keep its P and Q orthogonal; None for other methods.

    PEFT adds it in the model's forward pass, to a loss that is computed there; TRL computes the loss elsewhere. It is
    the mean of |A A^T - 1| and |B^T B - 1| over all layers times `orth_reg_weight` (arXiv 2303.10512, equation 4).
    """
    import torch

    settings = model.peft_config["default"]
    if settings.peft_type.value != "ADALORA":
        return None
    norms = []
    for name, value in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            product = value @ value.T if "lora_A" in name else value.T @ value
            norms.append(torch.linalg.matrix_norm(product - torch.eye(len(product), device=product.device)))
    penalty: torch.Tensor = settings.orth_reg_weight * torch.stack(norms).mean()
    return penalty


def allocator_state(model: PeftModel) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return what AdaLoRA remembers of the steps before, beside its weights; nothing for other methods.

    Raises:
        ConfigError: AdaMSS moves ranks and keeps its scores where they cannot be saved.
    """
    settings = model.peft_config["default"]
    if settings.peft_type.value == "ADAMSS" and settings.use_asa:
        raise ConfigError(
            "adapter.extra.use_asa: what adamss remembers of earlier steps cannot be saved, so a run could not go on "
            "after a stop; leave it out"
        )
    if settings.peft_type.value != "ADALORA":
        return {}, {}
    allocator = model.base_model.rankallocator
    scores = {f"{table}/{name}": one for table in _SCORES for name, one in getattr(allocator, table).items()}
    return scores, {"rank_pattern": settings.rank_pattern}


def set_allocator_state(model: PeftModel, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
    """Let AdaLoRA remember it again."""
    if not values:
        return
    model.peft_config["default"].rank_pattern = values["rank_pattern"]
    allocator = model.base_model.rankallocator
    allocator.reset_ipt()
    for name, value in tensors.items():
        table, _, of = name.partition("/")
        getattr(allocator, table)[of] = value.to(model.device, copy=True)
