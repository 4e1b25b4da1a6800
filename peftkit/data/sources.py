"""Read the rows of a data file: JSON lines, JSON, CSV and TSV, each also compressed with gzip.

Whatever a file holds, there are two outcomes beside a `Row`: a `BadRow` where one row cannot be used, and a
`DataError` where the file as a whole cannot. Line formats are read in constant memory.

Text is UTF-8 with or without a byte order mark, or UTF-16 with one. A line ends with LF, CRLF or CR. CSV and TSV
follow RFC 4180: the first row names the columns; a field that begins with a quote ends with one, may hold line ends,
and doubles the quotes inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from peftkit.data.csv_rows import read_csv, read_tsv
from peftkit.data.json_rows import read_json, read_json_lines
from peftkit.data.rows import BadRow, Row
from peftkit.data.text import check_is_file, place_of, read_chunks, to_utf8
from peftkit.errors import DataError

_READERS: dict[str, Callable[[Path, Iterator[bytes]], Iterator[Row | BadRow]]] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
}


def read_rows(path: Path) -> Iterator[Row | BadRow]:
    """Read a data file row by row.

    Blank lines are left out. The path is checked at once; the content as rows are taken.

    Args:
        path: A .jsonl, .ndjson, .json (an array of objects, or an object with one such array), .csv or .tsv file,
            with or without .gz at its end.

    Raises:
        DataError: There is no such file, or nothing in it can be used, or what was read so far is all that can.
    """
    endings = [suffix.lower() for suffix in path.suffixes]
    compressed = endings[-1:] == [".gz"]
    ending = "".join(endings[-2:-1] if compressed else endings[-1:])
    check_is_file(path)
    if ending not in _READERS:
        known = ", ".join(_READERS)
        raise DataError(f"{place_of(path)} is in no format that peftkit reads; use one of {known}, or these with .gz")
    return _READERS[ending](path, to_utf8(path, read_chunks(path, compressed)))
