"""Write one file of a merged model: what is unchanged is copied, what is changed is computed a few rows at a time.

Memory is that of a few blocks, whatever the size of the model: rows are read, changed in float32, rounded once to the
dtype that they had, and written.
"""

from __future__ import annotations

import errno
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from peftkit.errors import AdapterError
from peftkit.merge.changes import LowRank, Scratch
from peftkit.merge.plan import Output, OutputFile, Piece
from peftkit.merge.rows import Realised, Rows, Trained, blocks, merged
from peftkit.model.weight_files import StoredTensor

if TYPE_CHECKING:
    import torch

_COPIED = 1 << 24  # bytes that are copied at once
_PUSHED = 1 << 24  # bytes after which the system is told to begin writing them to the disk
_SAMPLED = 4  # of so many blocks of low-rank changes one is looked at for what rounding leaves
_AHEAD = 16  # blocks that may be computed before the one that is written
_T = TypeVar("_T")


def write_file(
    file: OutputFile, path: Path, trained: Trained | None, progress: Callable[[int], None]
) -> dict[str, dict[str, float | None]]:
    """Write one file, and wait until it is on the disk.

    Args:
        file: What to write.
        path: Where.
        trained: How the weights of outputs with `held` were held.
        progress: Told how many bytes were written since the last call.

    Returns:
        For each changed tensor `realised` (`Realised.share`) and `change` (`Realised.relative`), of low-rank changes
        estimated from one block of rows in four; the proof counts them all.

    Raises:
        AdapterError: A merged value is not finite.
    """
    import torch

    totals: dict[str, Realised] = {}
    with path.open("wb", buffering=0) as out, _Workers() as workers:
        disk = _Disk(out, progress)
        disk.write(file.header)
        for one, block in workers.ahead(_jobs(file, trained, workers)):
            if block is None:
                assert one.source is not None
                disk.copy(one.source)
                continue
            disk.write(block.rounded.view(-1).view(torch.uint8).numpy().data)
            totals.setdefault(one.name, Realised()).take(block.realised)
            if not math.isfinite(block.sum):  # one value that is not finite makes the sum so
                raise AdapterError(
                    f"merging gives values in '{one.name}' that are not finite in {one.dtype}; the adapter is damaged, "
                    "or its weight too large"
                )
        os.fsync(out.fileno())
    path.chmod(0o644)
    return {name: {"realised": total.share, "change": total.relative} for name, total in totals.items()}


@dataclass(frozen=True)
class _Block:
    """Rows that are ready to be written, their sum, and what was realised of their change."""

    rounded: torch.Tensor
    sum: float
    realised: Realised


_Waiting = tuple[Output, "Future[_Block] | None", "Scratch | None"]
"""An output, its block where that is computed, and the memory that is free once the block is written."""
_Job = tuple[Output, "Callable[[Scratch, Scratch], _Block] | None"]
"""An output, and what computes a block of it: given the memory of a thread, and memory for the result."""


def _jobs(file: OutputFile, trained: Trained | None, workers: _Workers) -> Iterator[_Job]:
    """Give the work for each output in order, a piece of it at a time; none for what is copied."""
    for one in file.outputs:
        if one.copied:
            yield one, None
            continue
        rows = workers.start(partial(Rows, one, trained))  # quantized weights are read through once before
        for piece, begin, count in blocks(one):
            yield one, partial(_computed, one, rows, piece, begin, count)


def _computed(
    one: Output, rows: Future[Rows], piece: Piece, begin: int, count: int, scratch: Scratch, result: Scratch
) -> _Block:
    before, wanted = merged(one, rows.result(), piece, begin, count, scratch)
    dtype = one.source.torch_dtype if one.source else wanted.dtype
    rounded = result.take("rounded", tuple(wanted.shape), dtype).copy_(wanted)
    realised = Realised()
    even = all(isinstance(change, LowRank) for change in piece.changes)  # others may change a few rows alone
    if not even or begin % (_SAMPLED * count) == 0:
        realised.add(before, wanted, rounded, scratch)
    return _Block(rounded, float(rounded.sum(dtype=wanted.dtype)), realised)


class _Workers:
    """Threads that compute blocks of rows, some ahead of the one that is written.

    Each computes alone: torch's own threads wait for each other, and lose far more than they gain where something else
    wants the processors too.
    """

    def __init__(self) -> None:
        self._own = threading.local()

    def __enter__(self) -> _Workers:
        import torch

        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(self._threads, initializer=self._begin)
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        self._pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._threads)

    def start(self, what: Callable[[], _T]) -> Future[_T]:
        """Begin something; what is begun later may wait for it."""
        return self._pool.submit(what)

    def ahead(self, jobs: Iterator[_Job]) -> Iterator[tuple[Output, _Block | None]]:
        """Give the results of jobs in order, each good until the next is asked for, and begin those that come after."""
        waiting: deque[_Waiting] = deque()
        spare = [Scratch() for _ in range(_AHEAD)]
        for one, work in jobs:
            if work is None:
                waiting.append((one, None, None))
                continue
            while not spare:
                yield from self._next(waiting, spare)
            result = spare.pop()
            waiting.append((one, self._pool.submit(self._compute, work, result), result))
        while waiting:
            yield from self._next(waiting, spare)

    def _begin(self) -> None:
        self._own.scratch = Scratch()

    def _compute(self, work: Callable[[Scratch, Scratch], _Block], result: Scratch) -> _Block:
        return work(self._own.scratch, result)

    @staticmethod
    def _next(waiting: deque[_Waiting], spare: list[Scratch]) -> Iterator[tuple[Output, _Block | None]]:
        one, future, result = waiting.popleft()
        yield one, None if future is None else future.result()
        if result is not None:
            spare.append(result)


class _Disk:
    """Writes a file whose bytes begin to go to the disk at once, so that little is left to wait for at the end."""

    def __init__(self, out: FileIO, progress: Callable[[int], None]) -> None:
        self._out = out
        self._progress = progress
        self._begun = 0
        self._pending = 0

    def write(self, values: bytes | memoryview) -> None:
        """Write bytes."""
        left = memoryview(values)
        while left:
            left = left[self._out.write(left) :]
        self._wrote(len(values))

    def copy(self, source: StoredTensor) -> None:
        """Copy a tensor's bytes, inside the kernel where it can."""
        with source.file.open("rb") as stream:
            place, end = source.start, source.start + source.size
            while place < end:
                count = min(_COPIED, end - place)
                done = _copy_inside(stream, self._out, place, count)
                if done:
                    self._wrote(done)
                else:
                    stream.seek(place)
                    block = stream.read(count)
                    if not block:
                        raise EOFError(f"'{source.file}' became shorter while it was read")
                    self.write(block)
                    done = len(block)
                place += done

    def _wrote(self, count: int) -> None:
        self._pending += count
        if self._pending >= _PUSHED:
            _begin_writing(self._out, self._begun, self._pending)
            self._begun += self._pending
            self._pending = 0
        self._progress(count)


def _begin_writing(out: FileIO, start: int, count: int) -> None:
    """Have the system write bytes to the disk without waiting for it.

    Linux does so when it is told that they are not needed in memory; elsewhere all is written by the last sync.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(out.fileno(), start, count, os.POSIX_FADV_DONTNEED)


def _copy_inside(stream: BinaryIO, out: FileIO, place: int, count: int) -> int:
    """Return how many bytes the kernel copied; none where it cannot."""
    if not hasattr(os, "copy_file_range"):
        return 0
    try:
        return os.copy_file_range(stream.fileno(), out.fileno(), count, offset_src=place)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            return 0
        raise
