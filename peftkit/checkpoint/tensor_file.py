"""Tensors as a safetensors file, written one at a time, and its sha256 counted on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.model.weight_files import format_name, write_header

if TYPE_CHECKING:
    import torch


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    """Write a file, and return the sha256 of the bytes that were given to the disk.

    Args:
        path: Where.
        tensors: Of any device; each is copied to main memory alone.

    Raises:
        OSError: It cannot be written.
    """
    import torch

    entries = {
        name: (format_name(value.dtype), tuple(value.shape), value.numel() * value.element_size())
        for name, value in tensors.items()
    }
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as out:
        for value in (None, *tensors.values()):
            if value is None:
                left = memoryview(write_header(entries, None))
            else:
                left = memoryview(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
            digest.update(left)
            while left:
                left = left[out.write(left) :]
    return digest.hexdigest()
