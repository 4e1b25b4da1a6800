"""Write one file of a merged model: what is unchanged is copied, what is changed is computed a few rows at a time.

Several threads do so at once, each at another place of the file. Memory is that of a few blocks of rows for each,
whatever the size of the model: rows are read, changed in float32, rounded once to the dtype that they had, and written.
"""

from __future__ import annotations

import errno
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from peftkit.errors import AdapterError
from peftkit.merge.changes import LowRank, Scratch
from peftkit.merge.plan import Output, OutputFile, Piece
from peftkit.merge.rows import Realised, Rows, Trained, before, blocks, merged
from peftkit.model.weight_files import StoredTensor

_AT_ONCE = 1 << 24  # bytes that a thread writes before it takes the next part
_SAMPLED = 4  # of so many blocks of low-rank changes one is looked at for what rounding leaves
_OWN = threading.local()
_Block = tuple[Piece, int, int]
_Begun = tuple[Output, "Future[tuple[int, Realised | None]]"]


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
    totals: dict[str, Realised] = {}
    with path.open("wb", buffering=0) as out:
        _write(out, file.header)
        progress(len(file.header))
        with _threads() as pool:
            for one, part in list(_parts(file, path, trained, pool)):
                written, realised = part.result()
                progress(written)
                if realised is not None:
                    totals.setdefault(one.name, Realised()).take(realised)
        os.fsync(out.fileno())
    path.chmod(0o644)
    return {name: {"realised": total.share, "change": total.relative} for name, total in totals.items()}


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Give as many threads as torch would use.

    Each computes alone: torch's own threads wait for each other, and lose far more than they gain where something else
    wants the processors too.
    """
    import torch

    count = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(count)


def _parts(file: OutputFile, path: Path, trained: Trained | None, pool: ThreadPoolExecutor) -> Iterator[_Begun]:
    """Begin to write all parts of a file behind its header."""
    start = len(file.header)
    for one in file.outputs:
        if one.copied:
            assert one.source is not None
            for begin in range(0, one.size, _AT_ONCE):
                count = min(_AT_ONCE, one.size - begin)
                yield one, pool.submit(_copy, one.source, begin, count, path, start + begin)
        else:
            rows = pool.submit(Rows, one, trained)  # quantized weights are read through once before
            for several in _runs(one):
                yield one, pool.submit(_change, one, rows, several, path, start)
        start += one.size


def _runs(one: Output) -> Iterator[list[_Block]]:
    """Give blocks of rows that follow each other, as many as are a part."""
    several: list[_Block] = []
    rows = 0
    for block in blocks(one):
        several.append(block)
        rows += block[2]
        if rows * _width(one) >= _AT_ONCE:
            yield several
            several, rows = [], 0
    if several:
        yield several


def _width(one: Output) -> int:
    """Bytes of a row."""
    rows = one.source.rows if one.source else one.pieces[0].count
    return one.size // max(1, rows)


def _change(
    one: Output, rows: Future[Rows], several: Sequence[_Block], path: Path, start: int
) -> tuple[int, Realised | None]:
    """Compute blocks of rows that follow each other, and write them; `start` is where the tensor begins."""
    import torch

    scratch, realised = _scratch(), Realised()
    first = start + (several[0][0].first + several[0][1]) * _width(one)
    with path.open("r+b", buffering=0) as out:
        out.seek(first)
        for piece, begin, count in several:
            found, wanted = merged(one, rows.result(), piece, begin, count, scratch)
            dtype = one.source.torch_dtype if one.source else wanted.dtype
            rounded = scratch.take("rounded", tuple(wanted.shape), dtype).copy_(wanted)
            summed = rounded if dtype.itemsize < 4 and dtype is not torch.bfloat16 else wanted  # their range is narrow
            if not math.isfinite(float(summed.sum(dtype=wanted.dtype))):  # one value that is not makes the sum so
                raise AdapterError(
                    f"merging gives values in '{one.name}' that are not finite in {one.dtype}; the adapter is damaged, "
                    "or its weight too large"
                )
            _write(out, rounded.view(-1).view(torch.uint8).numpy().data)
            even = all(isinstance(change, LowRank) for change in piece.changes)  # others may change a few rows alone
            if not even or begin % (_SAMPLED * count) == 0:
                realised.add(before(found, wanted, scratch), wanted, rounded, scratch)
        written = out.tell() - first
        _begin_writing(out, first, written)
    return written, realised


def _scratch() -> Scratch:
    """Return this thread's memory for blocks of rows."""
    try:
        own: Scratch = _OWN.scratch
    except AttributeError:
        own = _OWN.scratch = Scratch()
    return own


def _copy(source: StoredTensor, begin: int, count: int, path: Path, start: int) -> tuple[int, None]:
    """Copy bytes of a tensor to a place in a file, inside the kernel where it can."""
    with source.file.open("rb") as stream, path.open("r+b", buffering=0) as out:
        out.seek(start)
        done = 0
        while done < count:
            copied = _copy_inside(stream, out, source.start + begin + done, count - done)
            if not copied:
                stream.seek(source.start + begin + done)
                block = stream.read(count - done)
                if not block:
                    raise EOFError(f"'{source.file}' became shorter while it was read")
                _write(out, block)
                copied = len(block)
            done += copied
        _begin_writing(out, start, count)
    return count, None


def _write(out: FileIO, values: bytes | memoryview) -> None:
    left = memoryview(values)
    while left:
        left = left[out.write(left) :]


def _begin_writing(out: FileIO, start: int, count: int) -> None:
    """Have the system write bytes to the disk without waiting for it, so that little is left for the end.

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
