"""Measures what this machine gives: products of matrices, copies, and what CUDA takes for itself."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftkit import machine

if TYPE_CHECKING:
    import torch

MIB = 1 << 20
Shape = tuple[int, int, int]
"""Tokens, and features before and after a layer."""

SHAPES: dict[str, tuple[Shape, ...]] = {
    "cpu": ((512, 576, 1536), (512, 1536, 576), (1024, 1024, 1024), (256, 2048, 2048)),
    "cuda": ((4096, 4096, 4096), (4096, 4096, 14336), (4096, 14336, 4096), (2048, 3072, 8192)),
}
"""Layers of small models on a processor, and of 3B to 8B ones on a GPU."""

_COPIED = {"cpu": 64 * MIB, "cuda": 1024 * MIB}
_FEWEST, _MOST = 3, 20
"""Tries of one product or copy."""
_LONGEST = 0.3  # seconds for them, once there were enough


@dataclass(frozen=True)
class Rates:
    """What a machine was measured to give.

    Attributes:
        half: Floating-point operations a second of products in its 16-bit dtype.
        single: The same in float32.
        copy: Bytes a second that are read and written where its model is, when that copies.
        link: Bytes a second from main memory to the GPU; None on a processor.
        context: Bytes of the GPU that CUDA takes for a process and torch does not count; None where it is not known.
    """

    half: float
    single: float
    copy: float
    link: float | None = None
    context: int | None = None


def measure(shapes: int | None = None) -> Rates:
    """Measure this machine's GPU, or its processor: a few seconds, or well under one for a single shape.

    Args:
        shapes: How many of the layers are tried; None takes all, and measures also what only the doctor asks for.
    """
    import torch

    device = machine.device()
    half = torch.bfloat16 if device == "cpu" or machine.fast_dtype() == "bfloat16" else torch.float16
    tried = SHAPES[device][:shapes]
    thorough = shapes is None
    with torch.no_grad():
        return Rates(
            half=_products(device, half, tried),
            single=_products(device, torch.float32, tried),
            copy=_copies(device),
            link=_link() if thorough and device == "cuda" else None,
            context=_context() if thorough and device == "cuda" else None,
        )


def _products(device: str, dtype: torch.dtype, shapes: Sequence[Shape]) -> float:
    """Return the operations a second of one product of each shape."""
    import torch

    seconds = 0.0
    for rows, before, after in shapes:
        left = torch.ones((rows, before), dtype=dtype, device=device)
        right = torch.ones((after, before), dtype=dtype, device=device)
        seconds += _fastest(device, lambda left=left, right=right: torch.nn.functional.linear(left, right))  # type: ignore[misc]
    return sum(2 * rows * before * after for rows, before, after in shapes) / seconds


def _copies(device: str) -> float:
    import torch

    size = _COPIED[device]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _fastest(device, lambda: target.copy_(source))


def _link() -> float:
    import torch

    source = torch.ones(_COPIED["cpu"], dtype=torch.uint8).pin_memory()
    target = torch.empty_like(source, device="cuda")
    return _COPIED["cpu"] / _fastest("cuda", lambda: target.copy_(source, non_blocking=True))


def _fastest(device: str, work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of some tries, before which one warms up."""
    work()
    _wait(device)
    best, begun = float("inf"), time.perf_counter()
    for number in range(_MOST):
        start = time.perf_counter()
        work()
        _wait(device)
        end = time.perf_counter()
        best = min(best, end - start)
        if number + 1 >= _FEWEST and end - begun > _LONGEST:
            break
    return best


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


_CHILD = """
import torch
one = torch.ones((256, 256), device="cuda", dtype=torch.float16)
one @ one
torch.cuda.synchronize()
print(torch.cuda.memory_reserved(), flush=True)
input()
"""


def _context() -> int | None:
    """Return what another process takes of the GPU for one small product, without what torch counts of it."""
    import torch

    before = torch.cuda.mem_get_info()[0]
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        assert child.stdout is not None
        said = child.stdout.readline()
        after = torch.cuda.mem_get_info()[0]
        child.communicate("\n")  # which goes unheard where the child has failed
    taken = before - after - int(said) if said.strip() else 0
    return taken if taken > 0 else None  # others can have given memory back meanwhile
