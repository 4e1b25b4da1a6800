"""A run's model on the meta device: transformers' layers, bitsandbytes' quantized ones, the adapter, and no weights."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch

from peftkit.adapter.attach import attach
from peftkit.adapter.starts import find_start
from peftkit.config import RunConfig
from peftkit.kernels import varlen
from peftkit.kernels.attention import traced_attention
from peftkit.merge.places import meta_model
from peftkit.model.family import TASK_TYPES
from peftkit.model.head import UNQUANTIZED, head_settings, is_of_head, open_head
from peftkit.model.load import AUTO_CLASSES
from peftkit.model.quantize import quantization_config

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from peftkit.model.family import Family

BLOCK, NESTED_BLOCK = 64, 256
"""Values that share a scale in bitsandbytes' 4-bit weights, and scales that share one of their own."""


def build_model(settings: Any, config: RunConfig, family: Family, dtype: torch.dtype) -> PeftModel:
    """Build a run's model as it is trained.

    Args:
        settings: The base model's configuration.
        config: The run's configuration; for a head, with its labels.
        family: How the model answers.
        dtype: Of unquantized weights and of computation.

    Raises:
        ConfigError: PEFT refuses the adapter.
        ModelError: transformers cannot build the model.
    """
    return adapted_model(base_model(settings, config, family, dtype), config, family)


def base_model(settings: Any, config: RunConfig, family: Family, dtype: torch.dtype) -> PreTrainedModel:
    """Build the base model as `peftkit.model.load` loads it, quantized as asked."""
    import transformers

    settings = copy.deepcopy(settings)
    settings.dtype = dtype
    attention = traced_attention(config, settings)
    if attention is not None:
        varlen.register()
        settings._attn_implementation = attention
    if family == "head":
        for name, value in head_settings(config.task).items():
            setattr(settings, name, value)
        if settings.pad_token_id is None:
            settings.pad_token_id = 0
    model = meta_model(getattr(transformers, AUTO_CLASSES[family]), settings)
    if config.model.quantization != "none":
        _quantize(model, quantization_config(config.model, dtype, UNQUANTIZED if family == "head" else None))
    if family == "head":
        open_head(model, {name for name, _ in model.named_parameters() if is_of_head(model, name)})
    return model.eval()


def adapted_model(model: PreTrainedModel, config: RunConfig, family: Family) -> PeftModel:
    """Attach the run's adapter; how it starts does not matter, where its shape is the same."""
    adapter = config.adapter
    if adapter.method == "lora" and find_start(adapter.init_lora_weights).name != "mica":  # mica trains less
        adapter = adapter.model_copy(update={"init_lora_weights": "true"})
    with torch.device("meta"):
        return attach(
            model,
            adapter,
            base=config.model,
            seed=config.train.seed,
            task_type=TASK_TYPES[family],
            steps=config.train.max_steps or 100,
        )


def _quantize(model: PreTrainedModel, quantization: Any) -> None:
    """Give a model quantized layers by transformers' own rules, and these the storage that bitsandbytes gives them."""
    import bitsandbytes
    from transformers.quantizers.auto import AutoHfQuantizer

    quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=False)
    quantizer.preprocess_model(model=model, device_map=None)
    model.hf_quantizer = quantizer
    quantizer.postprocess_model(model)
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            _hold_in_4_bits(module, quantization)
            module.support_avx512bf16_for_cpu = False
        elif isinstance(module, bitsandbytes.nn.Linear8bitLt):
            _hold_in_8_bits(module)


def _hold_in_4_bits(layer: Any, quantization: Any) -> None:
    """Hold a layer's weight as bytes of two values, with scales in 8 bits (double quantization) or float32."""
    import bitsandbytes
    from bitsandbytes.functional import QuantState

    kind = quantization.bnb_4bit_quant_type
    shape, dtype = layer.weight.shape, layer.weight.dtype
    values = math.prod(shape)
    blocks = -(-values // BLOCK)
    named = {"blocksize": BLOCK, "quant_type": kind, "dtype": dtype, "shape": shape, "code": _meta(16)}
    if quantization.bnb_4bit_use_double_quant:
        outer = QuantState(absmax=_meta(-(-blocks // NESTED_BLOCK)), blocksize=NESTED_BLOCK, code=_meta(256))
        outer.dtype = torch.float32
        state = QuantState(absmax=_meta(blocks, torch.uint8), state2=outer, offset=_meta(), **named)
    else:
        state = QuantState(absmax=_meta(blocks), **named)
    layer.weight = bitsandbytes.nn.Params4bit(
        _meta((values + 1) // 2, torch.uint8).view(-1, 1),
        quant_state=state,
        quant_type=kind,
        bnb_quantized=True,
        module=layer,
    )
    layer.quant_state = state


def _hold_in_8_bits(layer: Any) -> None:
    import bitsandbytes

    values = torch.empty(layer.weight.shape, dtype=torch.int8, device="meta")
    layer.weight = bitsandbytes.nn.Int8Params(
        values, requires_grad=False, has_fp16_weights=False, CB=values, SCB=_meta(values.shape[0])
    )


def _meta(count: int | None = None, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(() if count is None else (count,), dtype=dtype, device="meta")


def frozen_states(model: torch.nn.Module) -> list[torch.Tensor]:
    """Return what quantized layers hold beside their weights: scales and their tables."""
    held: list[torch.Tensor] = []
    for module in model.modules():
        if (state := getattr(getattr(module, "weight", None), "quant_state", None)) is not None:
            held += _tensors_of(state)
        for holder in (getattr(module, "state", None), getattr(module, "weight", None)):
            held += [one for one in (getattr(holder, "CB", None), getattr(holder, "SCB", None)) if one is not None]
    return held


def _tensors_of(state: Any) -> list[torch.Tensor]:
    own = [state.absmax, state.code, state.offset]
    return [one for one in own if one is not None] + (_tensors_of(state.state2) if state.state2 is not None else [])
