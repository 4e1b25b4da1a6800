"""Turn a trained adapter of another method into LoRA, which every server reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftkit.errors import ConfigError, first_line

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

TOLERANCE = 0.05
"""Relative error of the logits above which the LoRA should not be said to do what the adapter does."""


@dataclass(frozen=True)
class Converted:
    """A model with LoRA in place of the adapter that it was made from.

    Attributes:
        model: The model with the LoRA, in evaluation mode. The model that was given must not be used any more.
        logit_error: |logits - LoRA's logits| / |logits - base's logits| on the given batch, in the Euclidean norm.
    """

    model: PeftModel
    logit_error: float

    @property
    def faithful(self) -> bool:
        """Whether the logits agree within `TOLERANCE` of what the adapter changed."""
        return self.logit_error <= TOLERANCE


def require_convertible(model: PeftModel) -> None:
    """Refuse a head of several layers, as RoBERTa has: PEFT cannot take another method's adapter off such a model.

    Raises:
        ConfigError: The model has such a head.
    """
    from peft.utils.other import ModulesToSaveWrapper

    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper) and list(module.original_module.children()):
            raise ConfigError(
                f"adapter.save_as_lora: PEFT cannot do it beside a {type(module.original_module).__name__} of several "
                "layers; leave it out, or take adapter.method=lora"
            )


def to_lora(model: PeftModel, rank: int, batch: Mapping[str, torch.Tensor]) -> Converted:
    """Replace a model's adapter by the LoRA of a rank that comes nearest to it (PEFT's `convert_to_lora`, by SVD).

    MiSS has a rank of its own, and becomes LoRA without an error. A classification head is taken over as it is.

    Args:
        model: The trained model.
        rank: Rank of the LoRA.
        batch: Arguments of the model's forward pass, by which both are compared.

    Raises:
        ConfigError: PEFT cannot convert the adapter, or not to this rank.
    """
    import torch
    from peft import convert_to_lora, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    settings = model.peft_config["default"]
    with torch.inference_mode():
        adapted = model.eval()(**batch).logits.float()
        with model.disable_adapter():
            base = model(**batch).logits.float()
    try:
        lora, state = convert_to_lora(model, rank)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"adapter.save_as_lora={rank}: {first_line(error)}") from error
    state = {name: tensor for name, tensor in state.items() if ".lora_" in name}
    full = _trained_in_full(model, get_peft_model_state_dict(model, save_embedding_layers=False))
    lora.task_type, lora.modules_to_save = settings.task_type, settings.modules_to_save
    path, revision = settings.base_model_name_or_path, settings.revision
    converted = get_peft_model(model.unload(), lora)
    set_peft_model_state_dict(converted, state | full)
    converted.peft_config["default"].base_model_name_or_path = path
    converted.peft_config["default"].revision = revision
    with torch.inference_mode():
        now = converted.eval()(**batch).logits.float()
    return Converted(converted, float((adapted - now).norm() / (adapted - base).norm()))


def _trained_in_full(model: PeftModel, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of modules that were trained as a whole: a classification head."""
    from peft.utils.other import ModulesToSaveWrapper

    wrapped = [f"{name}." for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)]
    return {name: tensor.clone() for name, tensor in state.items() if name.startswith(tuple(wrapped))}
