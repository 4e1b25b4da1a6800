"""What AdaLoRA and AdaMSS need from the training loop, which PEFT leaves to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


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
