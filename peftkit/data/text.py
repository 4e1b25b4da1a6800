"""From bytes to lines of UTF-8."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterator

from peftkit.data.rows import BadRow, Input

MAX_ROW_BYTES = 10_000_000
"""Longest line, quoted CSV row or element of a JSON array."""

_BINARY = {
    b"\x1f\x8b": "a gzip file (name it .gz)",
    b"PK\x03\x04": "a zip or Excel file",
    b"(\xb5/\xfd": "a Zstandard file (name it .zst)",
    b"PAR1": "a Parquet file (name it .parquet)",
    b"ARROW1": "an Arrow file (name it .arrow)",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"%PDF-": "a PDF file",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file",
    b"SQLite format 3": "an SQLite database (name it as sql:sqlite:///FILE#QUERY)",
}
_TAR = slice(257, 262), b"ustar"  # where a tar archive says that it is one

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


def to_utf8(source: Input, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Take the byte order mark off, and turn UTF-16 into UTF-8."""
    head = next(chunks, b"")
    for magic, kind in _BINARY.items():
        if head.startswith(magic):
            source.refuse(f"is {kind}", "write its rows as .jsonl or .csv")
    if head[_TAR[0]] == _TAR[1]:
        source.refuse("is a tar archive", "unpack it, and give the folder or a file of it")
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        source.refuse("is UTF-32 text", "save it as UTF-8")
    if head.startswith(codecs.BOM_UTF8):
        head = head[len(codecs.BOM_UTF8) :]
    elif head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        yield from _from_utf16(head, chunks)
        return
    elif b"\0" in head[:4]:
        source.refuse("is a binary file, or UTF-16 text without a byte order mark", "save it as UTF-8")
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


def too_long(where: str) -> BadRow:
    """Say that a row is above `MAX_ROW_BYTES`."""
    return BadRow(where, None, f"longer than {MAX_ROW_BYTES:,} bytes")
