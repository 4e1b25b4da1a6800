"""Rows of several adapters in one batch, by PEFT's `adapter_names`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftModel

_BASE = "__base__"  # PEFT's word for no adapter
_HOMES = ("peft.tuners.lora.layer", "peft.tuners.lora.bnb")  # of the layers that take `adapter_names`


class Mixer:
    """Tells the layers of a model which row has which adapter.

    PEFT does that itself when a model is called with `adapter_names`; but it then hangs a hook onto every layer for
    each call, and leaves all of them there when the call fails, so that every later call fails too. Here each layer has
    one hook for good.

    Args:
        model: A model that `can_mix`.
    """

    def __init__(self, model: PeftModel) -> None:
        from peft.tuners.lora.layer import LoraLayer

        self._names: list[str] | None = None
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.register_forward_pre_hook(self._say, with_kwargs=True)

    @contextmanager
    def rows(self, keys: Sequence[str | None]) -> Iterator[None]:
        """Let each row be answered with the adapter of this name, or with none."""
        self._names = [key or _BASE for key in keys]
        try:
            yield
        finally:
            self._names = None

    def _say(self, module: Any, given: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return given, named if self._names is None else {**named, "adapter_names": self._names}


def can_mix(model: PeftModel) -> bool:
    """Whether one batch may hold rows of several adapters, by PEFT's `adapter_names`.

    PEFT does this for plain LoRA; not for variants such as DoRA, for layers that were saved as a whole, and for some
    kinds of quantized layers.
    """
    from peft.tuners.lora.layer import LoraLayer, MultiheadAttention, ParamWrapper
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if model.peft_type != "LORA":
        return False
    for module in model.modules():
        if isinstance(module, AuxiliaryTrainingWrapper | MultiheadAttention | ParamWrapper):
            return False
        if isinstance(module, BaseTunerLayer):
            plain = isinstance(module, LoraLayer) and type(module).__module__ in _HOMES
            if not plain or module.lora_variant:
                return False
    return True
