"""The models that a merge is judged by: base and adapters as they were trained, and what was written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.adapter.attach import load_adapter
from peftkit.config import ModelConfig, RunConfig
from peftkit.errors import ModelError, first_line
from peftkit.merge.inputs import Inputs
from peftkit.model.load import Source, load_model, resolved_dtype

if TYPE_CHECKING:
    import torch


def live_model(inputs: Inputs, *, trained: bool) -> Any:
    """Load base and adapters, side by side and not merged.

    Args:
        inputs: What was merged.
        trained: Whether the base is quantized as it was in training, or as it is stored.

    Returns:
        A model in evaluation mode; `disable_adapter` gives the base.
    """
    from peft import PeftModel

    passport = inputs.passport
    first, *others = inputs.adapters
    if passport is None:
        model: Any = PeftModel.from_pretrained(
            plain_model(inputs, inputs.folder, resolved_dtype(ModelConfig(path=inputs.source.path))), first.folder
        )
    else:
        held = passport.base.quantization if trained else "none"
        model = load_adapter(load_model(inputs.source, _held_as(passport.config, held), inputs.family), first.folder)
    names = ["default"]
    for number, other in enumerate(others, 2):
        names.append(f"adapter {number}")
        model.load_adapter(other.folder, adapter_name=names[-1])
    if len(names) > 1:
        model.base_model.set_adapter(names)
    for name, one in zip(names, inputs.adapters, strict=True):
        _weigh(model, name, one.weight)
    return model.eval()


def merged_model(inputs: Inputs, folder: Path) -> Any:
    """Load what was written, held as it was written, and computing in what the live model computes in."""
    passport = inputs.passport
    if passport is None:
        return plain_model(inputs, folder, resolved_dtype(ModelConfig(path=str(folder))))
    return load_model(Source(str(folder)), _held_as(passport.config, "none"), inputs.family)


def _held_as(config: RunConfig, kind: str) -> RunConfig:
    return config.model_copy(update={"model": config.model.model_copy(update={"quantization": kind})})


def plain_model(inputs: Inputs, folder: Path, dtype: torch.dtype) -> Any:
    """Load a model unquantized by its class alone.

    Raises:
        ModelError: It cannot be loaded.
    """
    from safetensors import SafetensorError

    arguments = {"num_labels": inputs.settings.num_labels} if inputs.family == "head" else {}
    try:
        return inputs.model_class.from_pretrained(folder, dtype=dtype, **arguments).eval()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"the model in '{folder}' cannot be loaded: {first_line(error)}") from error


def _weigh(model: Any, name: str, weight: float) -> None:
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if weight != 1 and isinstance(module, LoraLayer) and name in module.scaling:
            module.scaling[name] *= weight
