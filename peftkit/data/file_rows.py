"""The rows of one file, by the ending of its name.

    reviews.csv   reviews.jsonl.gz   corpus.txt.zst   reviews.parquet

JSON lines, JSON, CSV, TSV and plain text may be compressed with gzip or Zstandard; Parquet and Arrow are compressed
inside. All but JSON are read in constant memory.

Text is UTF-8 with or without a byte order mark, or UTF-16 with one. A line ends with LF, CRLF or CR. CSV and TSV
follow RFC 4180: the first row names the columns; a field that begins with a quote ends with one, may hold line ends,
and doubles the quotes inside it.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from peftkit.data.arrow_rows import read_arrow, read_parquet
from peftkit.data.csv_rows import read_csv, read_tsv
from peftkit.data.json_rows import read_json, read_json_lines
from peftkit.data.packed import PACKED, read_chunks
from peftkit.data.rows import BadRow, Input, Row, shown
from peftkit.data.text import to_utf8
from peftkit.data.text_rows import UNITS, TextReader

_RECORDS: dict[str, TextReader] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
}
_TABLES: dict[str, Callable[[Input, Path], Iterator[Row | BadRow]]] = {
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
}
_TEXT = (".txt", ".text", ".md", ".markdown", ".rst", ".tex")


def read_file(path: Path, *, name: str | None = None, unit: str | None = None) -> Iterator[Row | BadRow]:
    """Read a data file row by row.

    Blank lines are left out. The path is checked at once; the content as rows are taken.

    Args:
        path: A file whose name says its format, or with a unit any text.
        name: How rows are named, in place of the file's name.
        unit: Read it as text, cut into `lines`, `paragraphs` or `documents`.

    Raises:
        DataError: There is no such file, or nothing in it can be used, or what was read so far is all that can.
    """
    source = Input.of(path, name)
    check_is_file(path)
    ending = _ending(path)
    if unit is None and ending in _TABLES:
        if path.suffix.lower() in PACKED:
            source.refuse("is a compressed table", "unpack it: a table is compressed inside")
        return _TABLES[ending](source, path)
    if unit is None and ending in _TEXT:
        unit = "lines"
    if unit is None and ending not in _RECORDS:
        text = ", ".join([*_RECORDS, *_TEXT])
        source.refuse(
            "is in no format that peftkit reads",
            f"use one of {', '.join(_TABLES)}, or {text}, the latter also with {' or '.join(PACKED)}",
        )
    read = UNITS[unit] if unit else _RECORDS[ending]
    return read(source, to_utf8(source, read_chunks(source, path)))


def is_record_file(path: Path) -> bool:
    """Return whether the name is that of a file whose rows have columns of their own."""
    return _ending(path) in _RECORDS or (_ending(path) in _TABLES and path.suffix.lower() not in PACKED)


def is_text_file(path: Path) -> bool:
    """Return whether the name is that of plain text."""
    return _ending(path) in _TEXT


def describe_file(path: Path, name: str | None = None) -> dict[str, Any]:
    """Return a file's name, size in bytes and sha256."""
    check_is_file(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": name or path.name, "bytes": path.stat().st_size, "sha256": digest}


def check_is_file(path: Path) -> None:
    """Raise `DataError` for a path that is no regular file, with names that are near to it."""
    source = Input.of(path)
    try:
        if path.is_file():
            return
        exists = path.exists()
        names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    except OSError as error:
        source.refuse(f"cannot be read ({error.strerror or error})", "check its permissions")
    if exists:
        source.refuse(f"is {'a folder' if path.is_dir() else 'not a regular file'}", "give the path of one data file")
    if path.is_symlink():
        source.refuse("is a link that leads nowhere", "give the path of the file itself")
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.75)
    source.refuse(
        "is not there", f"did you mean {', '.join(shown(name) for name in near)}?" if near else "check data.path"
    )


def _ending(path: Path) -> str:
    """Return the ending that says the format: that before .gz or .zst, if there is one."""
    endings = [suffix.lower() for suffix in path.suffixes]
    return "".join(endings[-2:-1] if endings[-1:] and endings[-1] in PACKED else endings[-1:])
