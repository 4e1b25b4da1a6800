"""Puts the pieces that a run's configuration asks for into its model, and takes them out again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from peftkit.config import RunConfig, TrainConfig
from peftkit.errors import ConfigError
from peftkit.kernels import dense_attention, keep, liger
from peftkit.kernels.compiled import compile_layers
from peftkit.kernels.lora_linear import FusedLora, complaint, computes_in, held
from peftkit.kernels.offload import Offload
from peftkit.kernels.pointwise import Gated, is_gated
from peftkit.kernels.tiles import Tiled

if TYPE_CHECKING:
    from peft import PeftModel


NORM_TILE = 4096
"""Tokens of a norm's tile: its float32 copies are as long as that."""


class Kernels:
    """The pieces of one model.

    Args:
        model: Base model with its adapter.
        config: The run's configuration.

    Raises:
        ConfigError: The configuration asks for a piece by name that does not fit the model.
    """

    def __init__(self, model: PeftModel, config: RunConfig) -> None:
        self.model, self.train = model, config.train
        self.attention_is_asked = config.model.attn_implementation is not None
        self.lora = _lora_layers(model, asked=config.train.fused_lora)
        self.layers = [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)]
        self.norms = list(_norms(model, self.layers))
        self.feeds = _feed_forward(model, self.layers, config.train)
        self.offload: Offload | None = None
        self._undo: list[Callable[[], None]] = []
        for key in ("offload_activations", "checkpoint_layers", "keep_attention", "compile_layers"):
            if getattr(config.train, key) not in (None, False) and not self.layers:
                raise ConfigError(f"train.{key}: this kind of model has no layers that are run alike; leave it out")
        attention = getattr(model.config, "_attn_implementation", None)
        if config.train.keep_attention and attention in keep.UNKNOWN:
            raise ConfigError(
                f"train.keep_attention=true cannot see the attention '{attention}'; take "
                "model.attn_implementation=sdpa, or leave it out"
            )
        if config.train.liger_kernels:
            liger.require(model.get_base_model(), device_of(model))

    def install(self) -> None:
        """Put them in; checkpointing must have been turned on already."""
        if self.train.liger_kernels:
            self._undo.append(liger.put_in(self.model.get_base_model()))
        fused = {id(one): FusedLora(one) for one in self.lora}
        self._undo += [one.undo for one in fused.values()]
        count = self.train.checkpoint_layers
        if isinstance(count, int):  # without a forecast, `auto` recomputes all
            # The last ones keep theirs: these are used up before any other layer is recomputed.
            for layer in self.layers[count:]:
                self._set(layer, "gradient_checkpointing", False)
        tile = self.train.tiled_mlp
        for layer, feed in zip(self.layers, self.feeds, strict=False):
            inside = [fused[id(one)] for one in feed.modules() if id(one) in fused]
            if tile:
                self._undo.append(Tiled(feed, tile, partial(_weights_once, inside)).undo)
            elif not (layer.gradient_checkpointing and self.model.is_gradient_checkpointing):
                self._undo.append(Gated(feed).undo)
        if tile or self.train.recompute_pointwise:
            alone = self.train.recompute_pointwise
            self._undo += [Tiled(norm, tile or NORM_TILE, always=alone).undo for norm in self.norms]
        if self.train.keep_attention:
            for layer in self.layers:
                self._set(
                    layer, "_gradient_checkpointing_func", keep.keeping_attention(layer._gradient_checkpointing_func)
                )
        else:
            self._attend_densely()
        if self.train.offload_activations:
            self.offload = Offload(device_of(self.model))
            for layer in self.layers:
                checkpoint = layer._gradient_checkpointing_func
                self._set(layer, "_gradient_checkpointing_func", self.offload.around(checkpoint))
        if self.train.compile_layers and self.model.device.type != "meta":
            self._undo += [one.undo for one in compile_layers(self.layers)]

    def _attend_densely(self) -> None:
        """Take our attention for short texts on a processor, unless the configuration names one."""
        base = self.model.get_base_model()
        taken = base.config._attn_implementation
        by_name = taken == "sdpa" and base._supports_attention_backend  # other models have their own code for sdpa
        if by_name and device_of(self.model) == "cpu" and not self.attention_is_asked:
            dense_attention.register()
            base.set_attn_implementation(dense_attention.NAME)
            self._undo.append(partial(base.set_attn_implementation, taken))

    def remove(self) -> None:
        """Take them out."""
        while self._undo:
            self._undo.pop()()

    def _set(self, module: Any, name: str, value: Any) -> None:
        self._undo.append(partial(setattr, module, name, getattr(module, name)))
        setattr(module, name, value)


def device_of(model: torch.nn.Module) -> str:
    """Return the kind of device that a model is trained on."""
    return next(model.parameters()).device.type


def _weights_once(fused: list[FusedLora], hidden: torch.Tensor) -> AbstractContextManager[None]:
    return held(fused, computes_in(hidden) or hidden.dtype)


def _lora_layers(model: PeftModel, asked: bool | None) -> list[Any]:
    """Return the layers to be run as one operation each: where nothing was asked, those that can be."""
    from peft.tuners.lora import LoraLayer

    if asked is False:
        return []
    found = [(name, one) for name, one in model.named_modules() if isinstance(one, LoraLayer)]
    wrong = {name: why for name, one in found if (why := complaint(one)) is not None}
    if asked and (wrong or not found):
        name, why = next(iter(wrong.items()), ("", ""))
        why = f"'{name}' cannot be one: {why}" if name else "the adapter is not LoRA"
        raise ConfigError(f"train.fused_lora=true is for plain LoRA layers, and {why}; leave it out")
    return [one for name, one in found if name not in wrong]


def _feed_forward(model: PeftModel, layers: list[Any], train: TrainConfig) -> list[torch.nn.Module]:
    """Return the feed-forward layer of each layer, where these are to be run in another way; else none."""
    if not (train.tiled_mlp or train.recompute_pointwise):
        return []
    feeds = [dict(layer.named_children()).get("mlp") for layer in layers]
    kind = type(model.get_base_model()).__name__
    if not feeds or any(one is None or _has_experts(one) for one in feeds):
        key = "tiled_mlp" if train.tiled_mlp else "recompute_pointwise"
        raise ConfigError(
            f"train.{key} is for models with one dense feed-forward layer, `mlp`, in each layer, and {kind} has "
            "others; leave it out"
        )
    found = [one for one in feeds if one is not None]
    if not train.tiled_mlp and not all(is_gated(one) for one in found):
        raise ConfigError(
            f"train.recompute_pointwise is for gated feed-forward layers, and {kind} has others; leave it out"
        )
    return found


def _norms(model: PeftModel, layers: list[Any]) -> Iterator[torch.nn.Module]:
    """Yield the norms of whole hidden states; torch's own keep no more than their input anyway."""
    for module in model.modules():
        parts = list(module.children())
        stack = any(isinstance(one, torch.nn.ModuleList) and layers[:1] == list(one)[:1] for one in parts)
        if module in layers or (stack and layers):
            yield from filter(_is_norm, parts)


def _has_experts(feed: torch.nn.Module) -> bool:
    return any("experts" in dict(one.named_children()) for one in feed.modules())


def _is_norm(module: torch.nn.Module) -> bool:
    own = isinstance(module, torch.nn.LayerNorm | torch.nn.RMSNorm)
    return type(module).__name__.endswith("Norm") and not own
