"""Does independent work in forks of this process, one for each core: what it has imported and made is there at once."""

from __future__ import annotations

import multiprocessing
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import TypeVar

import torch

from peftkit import machine

_work: list[Callable[[int], object]] = []  # the forks find it here, so that nothing is pickled

_Found = TypeVar("_Found")


def in_forks(function: Callable[[int], _Found], count: int) -> list[_Found]:
    """Return what a function gives for 0, 1, ... count - 1.

    One after the other where there is one core, where processes cannot be forked, or where CUDA has begun, which does
    not survive it; and once more so where a fork was killed, as happens where memory is short.

    Args:
        function: Its results can be pickled; what it changes is lost.
        count: How often it is called.
    """
    workers = min(machine.cores(), count)
    forked = workers > 1 and sys.platform == "linux" and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if forked:
        with suppress(BrokenProcessPool):
            return _forked(function, count, workers)
    return [function(number) for number in range(count)]


def _forked(function: Callable[[int], _Found], count: int, workers: int) -> list[_Found]:
    _work.append(function)
    try:
        with warnings.catch_warnings():
            # The threads of torch are meant, which a fork has not; `_alone` sees to it that it does not wait for them.
            warnings.simplefilter("ignore", DeprecationWarning)
            context = multiprocessing.get_context("fork")
            with ProcessPoolExecutor(workers, mp_context=context, initializer=_alone) as pool:
                return list(pool.map(_one, range(count)))  # type: ignore[arg-type]
    finally:
        _work.pop()


def _alone() -> None:
    torch.set_num_threads(1)


def _one(number: int) -> object:
    return _work[-1](number)
