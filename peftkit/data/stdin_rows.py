"""Rows from standard input, written as `-`.

    zcat reviews.csv.gz | peftkit run sentiment data.path=-

What begins with `{` is read as JSON lines, with `[` as a JSON array, and all else as CSV. It can be read once.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import IO

from peftkit.data.csv_rows import read_csv
from peftkit.data.json_rows import read_json, read_json_lines
from peftkit.data.rows import BadRow, Input, Row
from peftkit.data.text import to_utf8

_SOURCE = Input("standard input", "stdin")
_CHUNK_BYTES = 1 << 20
_taken: IO[bytes] | None = None


def read_stdin() -> Iterator[Row | BadRow]:
    """Read standard input to its end.

    Raises:
        DataError: It is a terminal, was read before, or holds no rows.
    """
    global _taken  # a stream that is gone stays gone, whoever asks for it
    stream = sys.stdin.buffer
    if stream is _taken:
        _SOURCE.refuse("can be read only once", "give a file for one of the sources")
    if stream.isatty():
        _SOURCE.refuse("is a terminal", "send rows into it, such as `cat reviews.csv | peftkit ... data.path=-`")
    _taken = stream
    return _rows(iter(lambda: stream.read(_CHUNK_BYTES), b""))


def _rows(chunks: Iterator[bytes]) -> Iterator[Row | BadRow]:
    chunks = to_utf8(_SOURCE, chunks)
    head: list[bytes] = []
    begin = b""
    for chunk in chunks:
        head.append(chunk)
        if begin := chunk.lstrip()[:1]:
            break
    read = {b"{": read_json_lines, b"[": read_json}.get(begin, read_csv)
    yield from read(_SOURCE, itertools.chain(head, chunks))
