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
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from peftkit.errors import AdapterError
from peftkit.merge.held import Held, Rows
from peftkit.merge.plan import Output, OutputFile, Piece
from peftkit.model.weight_files import StoredTensor

if TYPE_CHECKING:
    import torch

BLOCK_VALUES = 1 << 18
"""Values that are computed at once: 1 MiB of float32, so that all steps find them in the processor's cache."""
_ROWS = 64
"""Blocks of rows are multiples of so many: products of fewer can be computed in another order, with other last bits."""
_COPIED = 1 << 24  # bytes that are copied at once
_PUSHED = 1 << 26  # bytes after which the disk is waited for
_WAITING = 48  # blocks that may wait to be written, while the disk is waited for


@dataclass
class Realised:
    """How much of an intended change D = W' - W came through rounding: <R(W') - W, D> / <D, D>, summed over rows.

    Near 1 for a merge that keeps the adapter, near 0 where rounding takes it away. The norms are Frobenius norms.
    """

    along: float = 0.0
    intended: float = 0.0
    weight: float = 0.0

    def add(self, before: torch.Tensor, wanted: torch.Tensor, rounded: torch.Tensor) -> None:
        """Count rows, each of shape (count, columns) in float32 or float64; `wanted` and `rounded` are overwritten."""
        change = wanted.sub_(before).flatten()
        self.along += float(rounded.sub_(before).flatten().dot(change))
        self.intended += float(change.dot(change))
        flat = before.flatten()
        self.weight += float(flat.dot(flat))

    @property
    def share(self) -> float | None:
        """The share of the intended change that is there; None where none was intended."""
        return self.along / self.intended if self.intended else None

    @property
    def relative(self) -> float:
        """The norm of the intended change over that of the weight."""
        return (self.intended / self.weight) ** 0.5 if self.weight else 0.0


@dataclass(frozen=True)
class Trained:
    """How the weights were held that training saw."""

    kind: str
    dtype: torch.dtype


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
    seen: dict[str, dict[str, float | None]] = {}
    with _fewer_threads(), path.open("wb", buffering=0) as out, _Background() as beside:
        disk = _Disk(out, progress)
        beside.do(disk.write, file.header)
        for one in file.outputs:
            if one.copied:
                assert one.source is not None
                beside.do(disk.copy, one.source)
                continue
            total = Realised()
            for before, wanted, rounded in merged_rows(one, trained):
                beside.do(disk.write, _bytes(rounded))
                total.add(before, wanted, rounded.to(wanted.dtype, copy=True))  # that one is being written
            if not math.isfinite(total.along):  # one value that is not finite makes the sum so
                raise AdapterError(
                    f"merging gives values in '{one.name}' that are not finite in {one.dtype}; the adapter is damaged, "
                    "or its weight too large"
                )
            seen[one.name] = {"realised": total.share, "change": total.relative}
        beside.finish()
        os.fsync(out.fileno())
    path.chmod(0o644)
    return seen


@contextmanager
def _fewer_threads() -> Iterator[None]:
    """Leave processors to the writing: threads of torch that wait for each other on a busy machine lose far more."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // 2))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Background:
    """Does things one after another while others are computed; a few may wait."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def do(self, what: Callable[..., None], *arguments: Any) -> None:
        """Do it later; raises what went wrong before."""
        self._waiting.append(self._thread.submit(what, *arguments))
        while len(self._waiting) > _WAITING:
            self._waiting.popleft().result()

    def finish(self) -> None:
        """Wait until all is done."""
        while self._waiting:
            self._waiting.popleft().result()

    def __enter__(self) -> _Background:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)


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


def merged_rows(one: Output, trained: Trained | None) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Compute a changed tensor, rows after rows.

    Returns:
        Of each block the weight before, the changed weight unrounded (both float32, or float64 where the source is),
        and the changed weight as it is written; each of shape (count, columns).
    """
    if one.source is None:
        (piece,) = one.pieces
        values: torch.Tensor = piece.changes[0].values  # type: ignore[attr-defined]
        yield values.new_zeros(values.shape), values.clone(), values
        return
    with one.source.file.open("rb") as stream:
        rows = _Rows(one, trained, stream)
        dtype = one.source.torch_dtype
        done = 0
        for piece in one.pieces:
            yield from _piece(Piece(done, piece.first - done, 0, ()), rows, one.source.columns, dtype)
            yield from _piece(piece, rows, one.source.columns, dtype)
            done = piece.first + piece.count
        yield from _piece(Piece(done, one.source.rows - done, 0, ()), rows, one.source.columns, dtype)


def _piece(
    piece: Piece, rows: _Rows, columns: int, dtype: torch.dtype
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    import torch

    step = max(_ROWS, BLOCK_VALUES // columns // _ROWS * _ROWS)
    if any(change.needs_all_rows for change in piece.changes):
        step = piece.count
    begin = 0
    while begin < piece.count:
        left = piece.count - begin
        count = left if left < step + _ROWS else step
        before = rows(piece.first + begin, count).to(torch.float64 if dtype is torch.float64 else torch.float32)
        changed = before.clone()
        for change in piece.changes:
            changed = change.apply(changed, piece.skipped + begin, dtype)
        yield before, changed, changed.to(dtype, copy=True)
        begin += count


class _Rows:
    """Gives rows of an output's source, as they are stored or as training saw them."""

    def __init__(self, one: Output, trained: Trained | None, stream: BinaryIO) -> None:
        source = one.source
        assert source is not None
        self._stored: Rows = lambda first, count: source.read_rows(stream, first, count)
        self._held = None
        if one.held:
            assert trained is not None
            shape = (source.rows, source.columns)
            self._held = Held(self._stored, shape, trained.kind, trained.dtype, BLOCK_VALUES)

    def __call__(self, first: int, count: int) -> torch.Tensor:
        return self._held.rows(first, count) if self._held else self._stored(first, count)


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
