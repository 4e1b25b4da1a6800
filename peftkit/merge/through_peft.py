"""Merging by PEFT itself, in memory, for what cannot be computed row by row: its other methods, and rare forms of LoRA.

The model is held in float32, so the change is not rounded before it is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peftkit import machine
from peftkit.errors import AdapterError, ModelError, first_line
from peftkit.merge.changes import Change, Experts, Replaced
from peftkit.merge.held import Held, quantized_layers, trained_dtype
from peftkit.merge.inputs import Inputs
from peftkit.merge.rows import BLOCK_VALUES
from peftkit.model.weight_files import weight_files
from peftkit.ui import size

if TYPE_CHECKING:
    import torch

_ROOM = 3
"""Copies of the model in float32 that have to fit: base, changed layers, and what the methods compute with."""


def changes_through_peft(inputs: Inputs, *, onto_trained: bool) -> dict[str, list[Change | Experts]]:
    """Merge one adapter in memory, and return what each parameter of its layers became.

    Raises:
        AdapterError: There are several adapters, or one with another weight than 1, or PEFT cannot merge it.
        ModelError: There is not enough memory.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    from peftkit.adapter.attach import load_adapter

    if len(inputs.adapters) > 1 or inputs.adapters[0].weight != 1:
        raise AdapterError(
            f"'{inputs.adapters[0].folder}' is among adapters that only PEFT itself can merge, which takes one at a "
            "time and without a weight; merge them one after another"
        )
    (adapter,) = inputs.adapters
    kind = adapter.settings.peft_type.value
    _require_memory(inputs)
    base = _base(inputs, onto_trained=onto_trained)
    try:
        adapted = load_adapter(base, adapter.folder)
        inner = adapted.base_model.model
        layers = [
            name.replace(".base_layer", "")
            for name, module in inner.named_modules()
            if isinstance(module, BaseTunerLayer)
        ]
        saved = [name for name, module in inner.named_modules() if type(module).__name__ == "ModulesToSaveWrapper"]
        merged = adapted.merge_and_unload()
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, NotImplementedError) as error:
        raise AdapterError(f"PEFT cannot merge the {kind} in '{adapter.folder}': {first_line(error)}") from error
    prefixes = tuple(f"{name}." for name in (*layers, *saved))
    return {
        name: [Replaced(value.detach().reshape(-1, value.shape[-1] if value.ndim > 1 else 1))]
        for name, value in merged.named_parameters()
        if name.startswith(prefixes)
    }


def _base(inputs: Inputs, *, onto_trained: bool) -> Any:
    """Load the base in float32, with the values that training saw where that is asked for."""
    import torch

    from peftkit.merge.models import plain_model

    model = plain_model(inputs, inputs.folder, torch.float32)
    if onto_trained:
        passport = inputs.passport
        assert passport is not None
        config = passport.config.model.model_copy(update={"quantization": passport.base.quantization})
        dtype = trained_dtype(passport)
        head = inputs.family == "head"
        for name in quantized_layers(inputs.model_class, inputs.settings, config, dtype, head=head):
            weight = model.get_submodule(name).weight
            weight.data = _as_held(weight.data, config.quantization, dtype)
    return model


def _as_held(weight: torch.Tensor, kind: str, dtype: torch.dtype) -> torch.Tensor:
    rows, columns = weight.shape
    held = Held(lambda first, count: weight[first : first + count], (rows, columns), kind, dtype, BLOCK_VALUES)
    return held.rows(0, rows).to(weight.dtype)


def _require_memory(inputs: Inputs) -> None:
    values = sum(tensor.rows * tensor.columns for file in weight_files(inputs.folder) for tensor in file.tensors)
    needed, free = _ROOM * 4 * values, machine.available_memory()
    if needed > free:
        raise ModelError(
            f"PEFT needs about {size(needed)} of memory to merge this adapter, and {size(free)} are free; merge it on "
            "a larger machine, or train with adapter.method=lora"
        )
