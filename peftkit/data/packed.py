"""A file's bytes, piece by piece: as they are, or unpacked from gzip or Zstandard."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from peftkit.data.rows import Input
from peftkit.errors import DataError

MAX_UNPACKED_BYTES = 8 * 2**30
"""Largest content of a compressed file: a few kilobytes can unpack to terabytes."""
MAX_RATIO = 200
"""Bytes for each compressed byte, in content above `FREE_BYTES`: texts have 3 to 50, what was made to harm 1,000."""
FREE_BYTES = 10**8

_CHUNK_BYTES = 1 << 20


def _open_zstandard(path: Path) -> Any:
    import pyarrow  # unlike the zstandard package's stream, it reports a stream that is cut off

    return pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")


_UNPACKERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    ".gz": ("gzip", gzip.open),
    ".zst": ("Zstandard", _open_zstandard),
}
PACKED = tuple(_UNPACKERS)
"""Endings of compressed files."""


def read_chunks(source: Input, path: Path) -> Iterator[bytes]:
    """Read a file, unpacked if its name ends as those of compressed files do.

    Raises:
        DataError: It cannot be read, is cut off or damaged, or unpacks to more than `MAX_UNPACKED_BYTES`.
    """
    if path.suffix.lower() in _UNPACKERS:
        yield from _unpacked(source, path, *_UNPACKERS[path.suffix.lower()])
        return
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise _unreadable(source, error) from error


def _unpacked(source: Input, path: Path, kind: str, unpack: Callable[[Path], Any]) -> Iterator[bytes]:
    total = 0
    try:
        packed = path.stat().st_size
        if not packed:  # pyarrow takes it for a stream without content
            raise EOFError("it is empty")
        with unpack(path) as file:
            while chunk := file.read(_CHUNK_BYTES):
                total += len(chunk)
                if total > MAX_UNPACKED_BYTES:
                    source.refuse(f"unpacks to more than {MAX_UNPACKED_BYTES:,} bytes", "split it into smaller files")
                if total > max(FREE_BYTES, packed * MAX_RATIO):
                    source.refuse(f"unpacks to more than {MAX_RATIO} times its size", "unpack it, if it can be trusted")
                yield chunk
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise _unreadable(source, error) from error
        raise DataError(f"{source.place} is cut off or no {kind} file ({error}); copy or compress it again") from error


def _unreadable(source: Input, error: OSError) -> DataError:
    return DataError(f"{source.place} cannot be read ({error.strerror or error}); check its permissions")
