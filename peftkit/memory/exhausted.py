"""What running out of memory looks like, on a GPU and in main memory, and how what the attempt held is given back."""

from __future__ import annotations

import errno
import gc
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from peftkit import machine
from peftkit.errors import MemoryGoneError, first_line

Result = TypeVar("Result")

_SAID = (
    "out of memory",  # CUDA, where the driver says it and not torch's allocator
    "can't allocate memory",  # torch on a processor
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
)


class HostMemoryLowError(MemoryError):
    """Main memory would not hold what comes next, and the system would end this process."""


@dataclass(frozen=True)
class Failure:
    """An attempt that ran out of memory.

    Attributes:
        where: Which part of it.
        said: What the error said first.
    """

    where: str
    said: str


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or in main memory."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(one in str(error) for one in _SAID)


def give_back(error: BaseException, where: str | None = None) -> Failure:
    """Let go of what a failed attempt held, and return what is left to say of it.

    The frames of a traceback hold its tensors, and the graph behind them.

    Args:
        error: As it was caught.
        where: Which part of the attempt it was; by default forward, backward or optimizer step, by its traceback.
    """
    failure = Failure(where or _part_of_step(error), first_line(error))
    for one in _chain(error):
        traceback.clear_frames(one.__traceback__)
        one.__traceback__ = None
    collect()
    return failure


def collect() -> None:
    """Give memory that nothing holds any more back to the system and to the GPU."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    machine.trim()


def once_more(attempt: Callable[[], Result], where: str, told: Callable[[Failure], None]) -> Result:
    """Return what an attempt gives; where memory runs out, free what it held and try once more.

    Args:
        attempt: Can be made twice.
        where: What it is.
        told: Told before the second attempt.

    Raises:
        MemoryGoneError: Memory ran out again.
    """
    for last in (False, True):
        try:
            return attempt()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failure = give_back(error, where)
        if not last:
            told(failure)
    raise MemoryGoneError(f"memory ran out twice ({where}): {failure.said}")


def _part_of_step(error: BaseException) -> str:
    names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    if "backward" in names:
        return "backward"
    return "optimizer step" if "step" in names else "forward"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it came from."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            left += [one.__cause__, one.__context__]
