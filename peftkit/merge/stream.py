"""Write one file of a merged model: what is unchanged is copied, what is changed is computed a few rows at a time.

Memory is that of a few blocks, whatever the size of the model: rows are read, changed in float32, rounded once to the
dtype that they had, and written.
"""

from __future__ import annotations

import errno
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from peftkit.errors import AdapterError
from peftkit.merge.plan import Output, OutputFile, Piece
from peftkit.merge.rows import Realised, Rows, Trained, blocks, merged
from peftkit.model.weight_files import StoredTensor

if TYPE_CHECKING:
    import torch

_COPIED = 1 << 24  # bytes that are copied at once
_PUSHED = 1 << 26  # bytes after which the disk is waited for
_AHEAD = 16  # blocks that may wait to be written, while the disk is waited for
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
        For each changed tensor `realised` (`Realised.share`) and `change` (`Realised.relative`).

    Raises:
        AdapterError: A merged value is not finite.
    """
    totals: dict[str, Realised] = {}
    with path.open("wb", buffering=0) as out, _Workers() as workers:
        disk = _Disk(out, progress)
        disk.write(file.header)
        for one, block in workers.ahead(_jobs(file, trained, workers)):
            if block is None:
                assert one.source is not None
                disk.copy(one.source)
                continue
            disk.write(_bytes(block.rounded))
            totals.setdefault(one.name, Realised()).take(block.realised)
            if not math.isfinite(block.realised.along):  # one value that is not finite makes the sum so
                raise AdapterError(
                    f"merging gives values in '{one.name}' that are not finite in {one.dtype}; the adapter is damaged, "
                    "or its weight too large"
                )
        os.fsync(out.fileno())
    path.chmod(0o644)
    return {name: {"realised": total.share, "change": total.relative} for name, total in totals.items()}


@dataclass(frozen=True)
class _Block:
    """Rows that are ready to be written, and what was realised of their change."""

    rounded: torch.Tensor
    realised: Realised


_Job = tuple[Output, "Callable[[], _Block] | None"]


def _jobs(file: OutputFile, trained: Trained | None, workers: _Workers) -> Iterator[_Job]:
    """Give the work for each output in order, a piece of it at a time; none for what is copied."""
    for one in file.outputs:
        if one.copied:
            yield one, None
            continue
        rows = workers.start(partial(Rows, one, trained))  # quantized weights are read through once before
        for piece, begin, count in blocks(one):
            yield one, partial(_computed, one, rows, piece, begin, count)


def _computed(one: Output, rows: Future[Rows], piece: Piece, begin: int, count: int) -> _Block:
    before, wanted, rounded = merged(one, rows.result(), piece, begin, count)
    realised = Realised()
    realised.add(before, wanted, rounded)
    return _Block(rounded, realised)


class _Workers:
    """Threads that compute blocks of rows, some ahead of the one that is written.

    Each computes alone: torch's own threads wait for each other, and lose far more than they gain where something else
    wants the processors too.
    """

    def __enter__(self) -> _Workers:
        import torch

        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(self._threads)
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        self._pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._threads)

    def start(self, what: Callable[[], _T]) -> Future[_T]:
        """Begin something; what is begun later may wait for it."""
        return self._pool.submit(what)

    def ahead(self, jobs: Iterator[_Job]) -> Iterator[tuple[Output, _Block | None]]:
        """Give the results of jobs in order, and begin those that come after."""
        waiting: deque[tuple[Output, Future[_Block] | None]] = deque()
        for one, work in jobs:
            waiting.append((one, None if work is None else self.start(work)))
            if len(waiting) > _AHEAD:
                yield self._next(waiting)
        while waiting:
            yield self._next(waiting)

    @staticmethod
    def _next(waiting: deque[tuple[Output, Future[_Block] | None]]) -> tuple[Output, _Block | None]:
        one, future = waiting.popleft()
        return one, None if future is None else future.result()


class _Disk:
    """Writes a file, and pushes it to the disk now and then, so that little is left to wait for at the end."""

    def __init__(self, out: FileIO, progress: Callable[[int], None]) -> None:
        self._out = out
        self._progress = progress
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
            os.fsync(self._out.fileno())
            self._pending = 0
        self._progress(count)


def _bytes(values: torch.Tensor) -> bytes | memoryview:
    import torch

    flat: memoryview = values.contiguous().flatten().view(torch.uint8).numpy().data
    return flat


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
