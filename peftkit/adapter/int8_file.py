"""LoRA factors as 8-bit integers with a scale for each row: a quarter of float32.

PEFT has no such format. In the file a factor NAME is `NAME.int8`, int8 of shape (rows, columns), and
`NAME.int8_scale`, float32 of shape (rows,); its value is the product of the two. The header says
`peftkit_format: int8-rows-1`, and adapter_config.json has a `peft_type` of its own, at which PEFT stops: it would
otherwise warn of names that it does not know, and answer without the adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.errors import AdapterError

if TYPE_CHECKING:
    import torch

INT8_TYPE = "PEFTKIT_LORA_INT8"
INT8_METADATA = {"peftkit_format": "int8-rows-1"}
_VALUES, _SCALE = ".int8", ".int8_scale"
_LARGEST = 127


def pack_int8(
    state: Mapping[str, torch.Tensor], settings: Mapping[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return tensors and settings of an adapter for the file, with each factor of LoRA as integers and scales."""
    packed: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            packed[name + _VALUES], packed[name + _SCALE] = to_int8(tensor)
        else:
            packed[name] = tensor
    return packed, {**settings, "peft_type": INT8_TYPE}


def unpack_int8(
    folder: Path, state: Mapping[str, torch.Tensor], settings: Mapping[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return what was packed, with factors in float32; an adapter that was not is returned as it is.

    Raises:
        AdapterError: A factor lacks its scales, or has others than one for each row.
    """
    import torch

    if settings.get("peft_type") != INT8_TYPE:
        return dict(state), dict(settings)
    found: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(_VALUES):
            scale = state.get(name.removesuffix(_VALUES) + _SCALE)
            if scale is None or tensor.dtype != torch.int8 or tensor.ndim != 2 or scale.shape != tensor.shape[:1]:
                raise AdapterError(f"the adapter in '{folder}' is damaged: '{name}' has no scale for each of its rows")
            found[name.removesuffix(_VALUES)] = tensor.float() * scale.float()[:, None]
        elif not name.endswith(_SCALE):
            found[name] = tensor
    return found, {**settings, "peft_type": "LORA"}


def to_int8(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a matrix to 127 steps on each side of zero, each row by its own largest value.

    Args:
        tensor: float of shape (rows, columns).

    Returns:
        int8 of the same shape, and float32 scales of shape (rows,); a row of zeros has the scale 1.
    """
    import torch

    largest = tensor.abs().amax(dim=1).float()
    scale = torch.where(largest > 0, largest / _LARGEST, 1.0)
    return (tensor / scale[:, None]).round().clamp(-_LARGEST, _LARGEST).to(torch.int8), scale
