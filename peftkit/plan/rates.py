"""This machine as a card: its memory, and rates that are measured on the spot in a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from peftkit import machine
from peftkit.errors import ConfigError
from peftkit.plan.cards import MIB, Card, find_card

if TYPE_CHECKING:
    import torch

_SIDE = {"cpu": 1024, "cuda": 8192}
_COPIED = {"cpu": 64 * MIB, "cuda": 1024 * MIB}
_TRIES = 5
_LATER = 130 * MIB
"""Main memory of libraries that a run loads after its forecast: schedules, charts, the report. Seen in small runs."""


def this_machine() -> Card:
    """Return this machine's GPU, or its processor with the main memory that is left."""
    name, memory = machine.accelerator()
    if name is None:
        flops, bandwidth = measured_rates("cpu")
        here = machine.resident()
        memory, taken = machine.available_memory() + here, here + _LATER
        return Card("this processor", memory, flops / 1e12, bandwidth, False, taken, 0, "cpu")
    try:
        card = find_card(name)
    except ConfigError:
        flops, bandwidth = measured_rates("cuda")
        return Card(name, memory, flops / 1e12 / 0.7, bandwidth / 0.78, machine.fast_dtype() == "bfloat16")
    return Card(name, memory, card.tflops, card.bandwidth, card.bfloat16, card.context, card.workspace)


def measured_rates(device: str) -> tuple[float, float]:
    """Return floating-point operations a second of one large product, and bytes a second of one large copy."""
    import torch

    side, size = _SIDE[device], _COPIED[device]
    dtype = getattr(torch, machine.fast_dtype())
    left = torch.ones((side, side), dtype=dtype, device=device)
    right = torch.ones_like(left)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = _fastest(device, lambda: left @ right)
    copy = _fastest(device, lambda: target.copy_(source))
    return 2 * side**3 / product, 2 * size / copy


def _fastest(device: str, work: Callable[[], torch.Tensor]) -> float:
    best = float("inf")
    for _ in range(_TRIES):
        _wait(device)
        begun = time.perf_counter()
        work()
        _wait(device)
        best = min(best, time.perf_counter() - begun)
    return best


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
