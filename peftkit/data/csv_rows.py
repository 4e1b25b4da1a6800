"""The rows of CSV and TSV files."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from typing import NoReturn

from peftkit.data.rows import BadRow, Input, Row, shown
from peftkit.data.text import MAX_ROW_BYTES, Line, split_lines, too_long


def read_csv(source: Input, chunks: Iterator[bytes]) -> Iterator[Row | BadRow]:
    """Read rows of fields with commas between them."""
    return _separated(source, chunks, ",")


def read_tsv(source: Input, chunks: Iterator[bytes]) -> Iterator[Row | BadRow]:
    """Read rows of fields with tabs between them."""
    return _separated(source, chunks, "\t")


def _separated(source: Input, chunks: Iterator[bytes], delimiter: str) -> Iterator[Row | BadRow]:
    # The limit is the csv module's own for the whole process; it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES * 2))
    lines = _CsvLines(source, split_lines(chunks))
    records = csv.reader(lines, delimiter=delimiter, strict=True)
    columns: list[str] = []
    empty = True
    while True:
        lines.begin_record()
        try:
            fields = next(records)
        except StopIteration:
            break
        except csv.Error as error:
            if lines.ended:
                lines.refuse_open_quote("the end of the file")
            lines.problem = f"quotes out of place ({error}); double the quotes inside a quoted field"
            fields = []
        if not columns:
            if lines.problem:
                source.refuse(f"has a header that cannot be read: {lines.problem}", "correct its first row")
            columns = [] if lines.blank else _check_header(source, fields, delimiter)
            continue
        if lines.problem is None and lines.blank:
            continue
        empty = False
        where = f"{source.name}:{lines.first}"
        if lines.problem is None and len(fields) != len(columns):
            lines.problem = f"{len(fields)} fields where the header names {len(columns)}"
        if lines.problem is None:
            yield Row(where, dict(zip(columns, fields, strict=True)))
        else:
            span = f" (the row goes on to line {lines.last})" if lines.last > lines.first else ""
            yield BadRow(where, None, lines.problem + span)
    if empty:
        what = "has a header but no rows" if columns else "is empty"
        source.refuse(what, "write a header with the columns' names, and the rows below it")


class _CsvLines:
    """Feeds lines to `csv.reader`, and remembers what it cannot say: where a row began and what was wrong with it."""

    def __init__(self, source: Input, lines: Iterator[Line]) -> None:
        self._source = source
        self._lines = lines
        self.ended = False
        self.last = 0
        self.begin_record()

    def begin_record(self) -> None:
        self.first = self.last + 1
        self.problem: str | None = None
        self.blank = True
        self._bytes = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            self.last, line = next(self._lines)
        except StopIteration:
            self.ended = True
            raise
        self._bytes += MAX_ROW_BYTES if line is None else len(line)
        if self.last > self.first and self._bytes > MAX_ROW_BYTES:
            self.refuse_open_quote(f"{MAX_ROW_BYTES:,} bytes")
        if line is None:
            self.problem = too_long("").reason
            return "\n"
        self.blank = self.blank and not line.strip()
        if b"\0" in line:
            self.problem = self.problem or f"byte {line.index(0) + 1} of line {self.last} is NUL"
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            self.problem = self.problem or f"byte {error.start + 1} of line {self.last} is not valid UTF-8"
            return line.decode("utf-8", "surrogateescape")

    def refuse_open_quote(self, limit: str) -> NoReturn:
        # Not one bad row: all the rows behind the quote would be lost with it.
        what = f"has a quoted field in the row at line {self.first} that does not end before {limit}"
        self._source.refuse(what, "close the quote, or double it where it is part of the text")


def _check_header(source: Input, fields: list[str], delimiter: str) -> list[str]:
    columns = [field.strip() for field in fields]
    if "" in columns:
        what = f"gives no name to column {columns.index('') + 1}"
        source.refuse(what, "name it in the header, or write the file without row numbers")
    twice, count = Counter(columns).most_common(1)[0]
    if count > 1:
        source.refuse(f"has {count} columns named {shown(twice)}", "rename them in the header")
    if len(columns) == 1:
        for other in {",", ";", "\t"} - {delimiter}:
            if other in columns[0]:
                want = "commas (.csv) or tabs (.tsv)"
                source.refuse(f"seems to be separated by {other!r}: its header is {shown(columns[0])}", f"use {want}")
    return columns
