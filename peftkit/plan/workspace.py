"""Memory that GPU kernels hold inside themselves: no operation that torch could be asked about shows it."""

from __future__ import annotations

import math
from typing import Any

import torch

GEMM_4BIT_FUSED = 512
"""Rows up to which bitsandbytes multiplies 4-bit weights without writing them out; above, it does for large ones."""

MIB = 1 << 20
CUBLAS = 8 * MIB + MIB // 8
CUBLAS_HOPPER = 32 * MIB
"""What torch gives cuBLAS for a stream (`CUBLAS_WORKSPACE_CONFIG`: 4096 KiB twice, 16 KiB eight times; or 32 MiB)."""


def hidden_bytes(func: Any, args: tuple[Any, ...], result: Any) -> int:
    """Return the bytes that a CUDA kernel holds while it runs, beyond its arguments and results.

    From the sources: bitsandbytes 0.50 `backends/cuda/ops.py` (4-bit products of many rows write the weights out; 8-bit
    products have an int32 result) and torch 2.13 `native/transformers/cuda` (attention backward accumulates the query's
    gradient in float32, and makes the gradients of keys and values for every head where heads share them).
    """
    name = func.name()
    if name == "bitsandbytes::gemm_4bit":
        rows = args[0].numel() // args[0].shape[-1]
        return math.prod(args[2]) * int(args[0].itemsize) if rows > GEMM_4BIT_FUSED else 0
    if name in ("bitsandbytes::int8_mixed_scaled_mm", "bitsandbytes::int8_scaled_mm"):
        product = result[0] if isinstance(result, tuple) else result
        return 4 * int(product.numel())
    if name == "aten::_scaled_dot_product_flash_attention_backward":
        query, key = args[1], args[2]
        rows, heads, tokens, size = query.shape
        sums = 4 * rows * heads * _up(tokens, 128) * (_up(size, 32) + 1)
        shared = 2 * query.numel() * query.itemsize if key.shape[1] != heads else 0
        return int(sums + shared)
    if name == "aten::_scaled_dot_product_efficient_attention_backward":
        query = args[1]
        rows, heads, tokens, size = query.shape
        return int(4 * rows * heads * tokens * (_up(size, 32) + 1)) if query.dtype != torch.float32 else 0
    return 0


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
