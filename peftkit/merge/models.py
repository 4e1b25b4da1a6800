"""The models that a merge is judged by: base and adapters as they were trained, and what was written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.adapter.attach import PEFT_CONFIG, add_adapter, load_adapter
from peftkit.adapter.int8_file import INT8_TYPE
from peftkit.adapter.peft_file import read_peft_settings
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
        base = plain_model(inputs, inputs.folder, resolved_dtype(ModelConfig(path=inputs.source.path)))
    else:
        held = passport.base.quantization if trained else "none"
        base = load_model(inputs.source, _held_as(passport.config, held), inputs.family)
    if passport is None and not _is_int8(first.folder):
        model: Any = PeftModel.from_pretrained(base, first.folder)
    else:
        model = load_adapter(base, first.folder)
    names = ["default"]
    for number, other in enumerate(others, 2):
        names.append(f"adapter {number} of {len(inputs.adapters)}")  # no name is part of another, as PEFT needs it
        if _is_int8(other.folder):
            add_adapter(model, names[-1], other.folder)
        else:
            model.load_adapter(other.folder, adapter_name=names[-1])
    if len(names) > 1:
        model.base_model.set_adapter(names)
    for name, one in zip(names, inputs.adapters, strict=True):
        _weigh(model, name, one.weight)
    return model.eval()


def _is_int8(folder: Path) -> bool:
    """Whether PEFT itself cannot read an adapter, which only peftkit writes."""
    return read_peft_settings(folder / PEFT_CONFIG).get("peft_type") == INT8_TYPE


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
