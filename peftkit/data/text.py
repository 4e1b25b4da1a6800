"""From a file's bytes to lines of UTF-8, and what is said of a file that cannot be read."""

from __future__ import annotations

import codecs
import difflib
import gzip
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

from peftkit.data.rows import BadRow, shown
from peftkit.errors import DataError

MAX_ROW_BYTES = 10_000_000
"""Longest line, quoted CSV row or element of a JSON array."""
MAX_GZIP_BYTES = 8 * 2**30
"""Largest content of a compressed file: a few kilobytes can unpack to terabytes."""

_CHUNK_BYTES = 1 << 20
_BINARY = {
    b"\x1f\x8b": "a gzip file (name it .gz)",
    b"PK\x03\x04": "a zip or Excel file",
    b"PAR1\x15": "a Parquet file",
}

Line = tuple[int, bytes | None]
"""A 1-based number, and a line with its end, or None for one that is too long."""


def split_lines(chunks: Iterator[bytes]) -> Iterator[Line]:
    """Cut bytes into lines, each with its end (LF, CRLF or CR), whatever the size of the chunks."""
    number = 0
    pending = b""
    cut = False
    for chunk in chunks:
        pieces = (pending + chunk).splitlines(keepends=True)
        # A CR at the end may be half of a CRLF.
        pending = b"" if pieces[-1].endswith(b"\n") else pieces.pop()
        for piece in pieces:
            number += 1
            yield number, None if cut or len(piece) > MAX_ROW_BYTES else piece
            cut = False
        if len(pending) > MAX_ROW_BYTES:
            cut, pending = True, pending[-1:]
    if pending:
        yield number + 1, None if cut else pending


def to_utf8(path: Path, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Take the byte order mark off, and turn UTF-16 into UTF-8."""
    head = next(chunks, b"")
    for magic, kind in _BINARY.items():
        if head.startswith(magic):
            refuse(path, f"is {kind}", "write its rows as .jsonl or .csv")
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        refuse(path, "is UTF-32 text", "save it as UTF-8")
    if head.startswith(codecs.BOM_UTF8):
        head = head[len(codecs.BOM_UTF8) :]
    elif head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        yield from _from_utf16(head, chunks)
        return
    elif b"\0" in head[:4]:
        refuse(path, "is a binary file, or UTF-16 text without a byte order mark", "save it as UTF-8")
    if head:
        yield head
    yield from chunks


def _from_utf16(head: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    encoding = "utf-16-le" if head.startswith(codecs.BOM_UTF16_LE) else "utf-16-be"
    # A lone surrogate goes through as bytes that are not valid UTF-8: the row that holds it is refused later.
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    try:
        for chunk in itertools.chain([head[2:]], chunks, [b""]):
            if text := decoder.decode(chunk, final=not chunk):
                yield text.encode("utf-8", "surrogatepass")
    except UnicodeDecodeError:  # half a character at the end
        yield b"\xff"


def read_chunks(path: Path, compressed: bool) -> Iterator[bytes]:
    """Read a file, unpacked if it is compressed, piece by piece."""
    total = 0
    try:
        with cast(BinaryIO, gzip.open(path)) if compressed else path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                total += len(chunk)
                if compressed and total > MAX_GZIP_BYTES:
                    refuse(path, f"unpacks to more than {MAX_GZIP_BYTES:,} bytes", "split it into smaller files")
                yield chunk
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{place_of(path)} is cut off or no gzip file ({error}); copy or compress it again") from error
    except OSError as error:
        raise DataError(
            f"{place_of(path)} cannot be read ({error.strerror or error}); check its permissions"
        ) from error


def check_is_file(path: Path) -> None:
    """Raise `DataError` for a path that is no regular file, with names that are near to it."""
    try:
        if path.is_file():
            return
        exists = path.exists()
        names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    except OSError as error:
        raise DataError(
            f"{place_of(path)} cannot be read ({error.strerror or error}); check its permissions"
        ) from error
    if exists:
        kind = "a folder" if path.is_dir() else "not a regular file"
        refuse(path, f"is {kind}", "give the path of one data file")
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    advice = f"did you mean {', '.join(shown(name) for name in near)}?" if near else "check data.path"
    refuse(path, "is not there", advice)


def too_long(where: str) -> BadRow:
    """Say that a row is above `MAX_ROW_BYTES`."""
    return BadRow(where, None, f"longer than {MAX_ROW_BYTES:,} bytes")


def name_of(path: Path) -> str:
    """Return the file's name as a message shows it, unprintable characters escaped."""
    return _printable(path.name)


def place_of(path: Path) -> str:
    """Return the path as a message shows it, unprintable characters escaped."""
    return _printable(str(path))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def refuse(path: Path, what: str, advice: str) -> NoReturn:
    """Raise the `DataError` that says what is wrong with a file, and what to do."""
    raise DataError(f"{place_of(path)} {what}; {advice}")
