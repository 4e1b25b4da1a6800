"""Which attention a run takes: what it asks for, and for packed texts one that keeps them apart without a mask."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peftkit import machine
from peftkit.config import RunConfig
from peftkit.errors import ConfigError, MissingDependencyError
from peftkit.kernels import varlen

HUB_KERNEL = "kernels-community/flash-attn2"
"""FlashAttention 2 as the package `kernels` fetches it from the hub."""


def attention_of(config: RunConfig, settings: Any) -> str | None:
    """Return the attention implementation of a run on this machine; None leaves it to transformers.

    For packed texts that is FlashAttention where its kernel has been fetched already, else `varlen`, which has torch's
    own kernel for them on a GPU. Models without torch's attention keep their own, with a mask of blocks.

    Args:
        config: The run's configuration.
        settings: The base model's configuration.

    Raises:
        ConfigError: What is asked for needs a GPU.
        MissingDependencyError: What is asked for needs a package that is not here.
    """
    asked = config.model.attn_implementation
    if asked is not None:
        _require_usable(asked)
        return asked
    if not config.train.packing or not _has_torchs_attention(settings):
        return None
    return HUB_KERNEL if machine.device() == "cuda" and hub_kernel_is_here() else varlen.NAME


def traced_attention(config: RunConfig, settings: Any) -> str | None:
    """Return what stands for the attention of a run in a forecast: kernels that need no mask take the same memory."""
    asked = config.model.attn_implementation
    if asked is None:
        return varlen.NAME if config.train.packing and _has_torchs_attention(settings) else None
    return varlen.NAME if _is_flash(asked) else asked


def hub_kernel_is_here() -> bool:
    """Whether `HUB_KERNEL` can be had without the network: the package is here, and the kernel in the hub's cache."""
    from huggingface_hub import constants

    name = HUB_KERNEL.replace("/", "--")
    kept = Path(constants.HF_HUB_CACHE).glob(f"*--{name}/snapshots/*")
    return find_spec("kernels") is not None and any(kept)


def _require_usable(asked: str) -> None:
    if not _is_flash(asked):
        return
    if machine.device() != "cuda":
        raise ConfigError(
            f"model.attn_implementation={asked} needs a CUDA GPU; leave it out, or take sdpa or {varlen.NAME}"
        )
    package = "kernels" if "/" in asked else "flash_attn"
    if find_spec(package) is None:
        raise MissingDependencyError(
            f"model.attn_implementation={asked} needs the package {package.replace('_', '-')}, which is not here; "
            f"install it, or leave it out"
        )


def _is_flash(asked: str) -> bool:
    return "/" in asked or "flash_attention" in asked


def _has_torchs_attention(settings: Any) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(settings), None)
    return bool(kind is not None and kind._supports_sdpa)
