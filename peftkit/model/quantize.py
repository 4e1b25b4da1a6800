"""How a base model's frozen weights are held: as bitsandbytes quantizes them here, or as they were stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peftkit.config import ModelConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

LIBRARIES = {
    "gptq": ("optimum", "gptqmodel"),
    "awq": ("gptqmodel",),
    "hqq": ("hqq",),
    "torchao": ("torchao",),
    "compressed-tensors": ("compressed-tensors",),
    "quanto": ("optimum-quanto",),
    "aqlm": ("aqlm",),
    "eetq": ("kernels",),
    "fbgemm_fp8": ("fbgemm-gpu",),
    "fp8": ("accelerate",),
    "mxfp4": ("kernels",),
}
"""What pip installs to read the weights of a model that was stored quantized, by transformers' name of its kind."""


def stored_kind(settings: Any) -> str | None:
    """Return how a model's stored weights are quantized, by its configuration; None where they are not.

    Returns:
        `nf4`, `fp4` or `int8` for bitsandbytes' kinds; else transformers' name, such as `gptq`, `awq` or `fp8`.
    """
    stored = getattr(settings, "quantization_config", None)
    if stored is None:
        return None
    stored = stored if isinstance(stored, dict) else stored.to_dict()
    method = stored.get("quant_method")
    if method is None or method == "bitsandbytes":
        return "int8" if stored.get("load_in_8bit") else str(stored.get("bnb_4bit_quant_type", "fp4"))
    return str(getattr(method, "value", method))


def held_kind(settings: Any, config: ModelConfig) -> str:
    """Return how a model's weights are held once it is loaded: as they were stored, else as `model.quantization` says.

    Weights that were stored quantized cannot be quantized again, so a preset's `nf4` does not count for them.
    """
    return stored_kind(settings) or config.quantization


def quantization_config(config: ModelConfig, dtype: torch.dtype, skip: Sequence[str] | None = None) -> Any:
    """Return bitsandbytes' settings: 4-bit kinds with double quantization, computing in `dtype`.

    Args:
        config: The model's configuration.
        dtype: What 4-bit layers compute in.
        skip: Names of modules that stay as they are; None leaves out the projection onto the vocabulary.
    """
    from transformers import BitsAndBytesConfig

    names = None if skip is None else list(skip)
    if config.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=names)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=names,
    )


def keep_quantized_weights_in_place(model: PreTrainedModel) -> None:
    """Stop bitsandbytes from repacking 4-bit weights when a model is evaluated on a processor with AVX512-BF16.

    bitsandbytes 0.50 repacks them in place at the first evaluation; a layer that was repacked passes no gradient on,
    so training after an evaluation would be wrong without a word.
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
