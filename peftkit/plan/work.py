"""The arithmetic and the memory traffic of a traced step, operation by operation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

Cost = tuple[int, int]
"""Floating-point operations, and bytes read and written."""

_ATTENTION = ("_scaled_dot_product_flash", "_scaled_dot_product_efficient", "_scaled_dot_product_cudnn")


@dataclass
class Work:
    """What a step computes.

    Attributes:
        of: By phase: how often each cost occurs.
    """

    of: dict[str, Counter[Cost]] = field(default_factory=dict)

    def add(self, phase: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Count one operation; views and those that only look cost nothing."""
        cost = cost_of(func, args, kwargs, result)
        if cost != (0, 0):
            self.of.setdefault(phase, Counter())[cost] += 1

    def flops(self, *phases: str) -> int:
        """Return all floating-point operations of some phases, by default of all."""
        return sum(cost[0] * times for phase in phases or self.of for cost, times in self.of.get(phase, {}).items())

    def bytes(self, *phases: str) -> int:
        """Return all bytes read and written in some phases, by default in all."""
        return sum(cost[1] * times for phase in phases or self.of for cost, times in self.of.get(phase, {}).items())


def cost_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Cost:
    """Return what one operation costs."""
    name = func.name()
    if func.is_view or name in _FREE:
        return 0, 0
    if name == "bitsandbytes::gemm_4bit":
        given, values = args[0], math.prod(args[2])
        written_out = 2 * values * given.itemsize  # the weights, written once and read once
        rows = given.numel() // given.shape[-1]
        return 2 * rows * values, _bytes((given, args[1], result)) + written_out
    if name.startswith("bitsandbytes::int8") and name.endswith("scaled_mm"):
        quantized, weights = (args[1], args[2]) if "mixed" in name else (args[0], args[1])
        product = result[0] if isinstance(result, tuple) else result
        return 2 * quantized.numel() * weights.shape[0], _bytes((quantized, weights, product, product))
    return _flops(func, args, kwargs, result), _bytes((args, kwargs, result))


_FREE = frozenset(
    ("aten::detach", "aten::empty.memory_format", "aten::empty_strided", "aten::empty_like", "aten::new_empty")
)


def _flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    packet = func._overloadpacket
    name = packet._qualified_op_name if hasattr(packet, "_qualified_op_name") else func.name()
    short = name.split("::")[-1]
    if short.startswith("_scaled_dot_product_flash_attention_for_cpu"):
        backward = short.endswith("backward")
        query, key = (args[1], args[2]) if backward else (args[0], args[1])
        causal = bool(args[7 if backward else 4]) if len(args) > (7 if backward else 4) else False
        return _attention(query, key, causal) * 5 // 2 if backward else _attention(query, key, causal)
    if short.startswith(_ATTENTION):
        backward = short.endswith("backward")
        query, key = (args[1], args[2]) if backward else (args[0], args[1])
        causal = any(one is True for one in args)
        return _attention(query, key, causal) * 5 // 2 if backward else _attention(query, key, causal)
    if name.startswith("aten::") and short.endswith("_"):  # one that works in place computes as much
        packet = getattr(torch.ops.aten, short[:-1], packet)
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=result))
    return 0


def _attention(query: torch.Tensor, key: torch.Tensor, causal: bool) -> int:
    """Return the operations of both products, half of them where a token sees only those before it."""
    rows, heads, tokens, size = query.shape
    full = 4 * rows * heads * tokens * key.shape[2] * size
    return full // 2 if causal else full


def _bytes(values: Any) -> int:
    return sum(one.numel() * one.itemsize for one in tensors_in(values))


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of arguments or results; torch's own `tree_leaves` is slow for the number of them."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from tensors_in(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from tensors_in(one)
