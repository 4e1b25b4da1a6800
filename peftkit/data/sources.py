"""Read the rows of a data file: JSON lines, JSON, CSV and TSV, each also compressed with gzip.

Whatever a file holds, there are two outcomes beside a `Row`: a `BadRow` where one row cannot be used, and a
`DataError` where the file as a whole cannot. Line formats are read in constant memory.

Text is UTF-8 with or without a byte order mark, or UTF-16 with one. A line ends with LF, CRLF or CR. CSV and TSV
follow RFC 4180: the first row names the columns; a field that begins with a quote ends with one, may hold line ends,
and doubles the quotes inside it.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import gzip
import itertools
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from peftkit.data.rows import BadRow, Row, shown
from peftkit.errors import DataError

MAX_ROW_BYTES = 10_000_000
"""Longest line, quoted CSV row or element of a JSON array."""
MAX_JSON_BYTES = 2**30
"""Largest .json file, which is held in memory whole; JSON lines are not."""
MAX_GZIP_BYTES = 8 * 2**30
"""Largest content of a compressed file: a few kilobytes can unpack to terabytes."""

_CHUNK_BYTES = 1 << 20
_BINARY = {
    b"\x1f\x8b": "a gzip file (name it .gz)",
    b"PK\x03\x04": "a zip or Excel file",
    b"PAR1\x15": "a Parquet file",
}
_SPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")

Line = tuple[int, bytes | None]
"""A 1-based number, and a line with its end, or None for one that is too long."""


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
    _check_is_file(path)
    if ending not in _READERS:
        known = ", ".join(_READERS)
        raise DataError(f"{_place(path)} is in no format that peftkit reads; use one of {known}, or these with .gz")
    return _READERS[ending](path, _utf8(path, _chunks(path, compressed)))


def _json_lines(path: Path, chunks: Iterator[bytes]) -> Iterator[Row | BadRow]:
    decoder = _JsonDecoder()
    empty = True
    for number, line in _lines(chunks):
        if line is not None and not line.strip():
            continue
        empty = False
        yield _json_line(f"{_name(path)}:{number}", line, decoder)
    if empty:
        _refuse(path, "holds no rows", "write one JSON object on each line")


def _json_line(where: str, line: bytes | None, decoder: _JsonDecoder) -> Row | BadRow:
    if line is None:
        return _too_long(where)
    try:
        text = line.decode()
        value, end = decoder.value_at(text, _skip_space(text, 0))
        end = _skip_space(text, end)
    except UnicodeDecodeError as error:
        return BadRow(where, None, f"byte {error.start + 1} of the line is not valid UTF-8")
    except json.JSONDecodeError as error:
        return BadRow(where, None, f"not JSON: {error.msg} (column {error.colno})")
    except RecursionError:
        return BadRow(where, None, "nested too deeply")
    if end != len(text):
        return BadRow(where, None, f"more than one JSON value (column {end + 1})")
    return decoder.row(where, value)


def _json(path: Path, chunks: Iterator[bytes]) -> Iterator[Row | BadRow]:
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) > MAX_JSON_BYTES:
            _refuse(path, f"is larger than {MAX_JSON_BYTES:,} bytes", "write it as .jsonl, which is read row by row")
    # An invalid byte becomes a lone surrogate here, so that it costs its own row and no other.
    text = content.decode("utf-8", "surrogateescape")
    del content
    decoder = _JsonDecoder()
    if not text.strip():
        _refuse(path, "is empty", "write an array of JSON objects")
    try:
        yield from _json_elements(path, text, decoder)
    except json.JSONDecodeError as error:
        what = f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        _refuse(path, what, "correct it there")
    except RecursionError:
        _refuse(path, "is nested too deeply", "write an array of JSON objects")


def _json_elements(path: Path, text: str, decoder: _JsonDecoder) -> Iterator[Row | BadRow]:
    start, inside_object = _find_array(path, text, decoder)
    position = _skip_space(text, start + 1)
    place = _Place(text)
    index = 0
    while index or text[position : position + 1] != "]":
        begin = position
        value, position = decoder.value_at(text, begin)
        where = f"{_name(path)}[{index}]"
        invalid = _SURROGATE.search(text, begin, position)
        if position - begin > MAX_ROW_BYTES:
            yield _too_long(where)
        elif invalid:
            yield BadRow(where, None, f"{place.of(invalid.start())} is not valid UTF-8")
        else:
            yield decoder.row(where, value)
        index += 1
        position = _skip_space(text, position)
        if text[position : position + 1] != ",":
            break
        position = _skip_space(text, position + 1)
    if text[position : position + 1] != "]":
        raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
    end = _skip_space(text, position + 1)
    if end != len(text) and not inside_object:
        raise json.JSONDecodeError("Extra data", text, end)
    if not index:
        _refuse(path, "holds no rows", "write an array of JSON objects")


def _find_array(path: Path, text: str, decoder: _JsonDecoder) -> tuple[int, bool]:
    """Return where the array of rows begins, and whether it is a member of an object."""
    start = _skip_space(text, 0)
    if text[start : start + 1] == "[":
        return start, False
    value, end = decoder.value_at(text, start)
    if (end := _skip_space(text, end)) != len(text):
        what = f"holds more than one JSON value (line {text.count(chr(10), 0, end) + 1})"
        _refuse(path, what, "write an array of JSON objects, or name the file .jsonl if each line is one object")
    if not isinstance(value, dict) or sum(isinstance(member, list) for member in value.values()) != 1:
        _refuse(path, "is neither an array of objects nor an object with one array", "write an array of JSON objects")
    position = start
    while True:  # the object was decoded above: its punctuation is where it belongs
        _, position = decoder.value_at(text, _skip_space(text, position + 1))
        position = _skip_space(text, _skip_space(text, position) + 1)
        if text[position] == "[":
            return position, True
        _, position = decoder.value_at(text, position)
        position = _skip_space(text, position)


class _Place:
    """Counts lines and bytes up to positions that only grow, so that a file full of bad rows is counted once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._line = 1
        self._byte = 1

    def of(self, position: int) -> str:
        passed = self._text[self._position : position]
        line_start = passed.rfind("\n") + 1
        if line_start:
            self._line += passed.count("\n")
            self._byte = 1
        self._byte += len(passed[line_start:].encode("utf-8", "surrogateescape"))
        self._position = position
        return f"byte {self._byte} of line {self._line}"


@dataclass(frozen=True, slots=True)
class _Flaw:
    """Stands in a decoded value where JSON allows, or Python's decoder lets pass, what no row may hold."""

    reason: str


class _JsonDecoder:
    """Decodes JSON, and notes duplicate keys and numbers that are none instead of taking them silently."""

    def __init__(self) -> None:
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._float, parse_int=self._int
        )
        self._suspicious = False

    def value_at(self, text: str, start: int) -> tuple[Any, int]:
        """Decode the value that begins at `start`; return it and where it ends."""
        self._suspicious = False
        value, end = self._decoder.raw_decode(text, start)
        self._suspicious = self._suspicious or bool(_SURROGATE_ESCAPE.search(text, start, end))
        return value, end

    def row(self, where: str, value: Any) -> Row | BadRow:
        """Make a row of the value that was decoded last."""
        if isinstance(value, _Flaw):
            return BadRow(where, None, value.reason)
        if not isinstance(value, dict):
            kind = {str: "text", list: "an array", type(None): "null", bool: "true or false"}.get(
                type(value), "a number"
            )
            return BadRow(where, None, f"{kind} instead of an object with named columns")
        if self._suspicious:
            for column, member in value.items():
                if reason := _flaw_in([column, member]):
                    return BadRow(where, column, reason)
        return Row(where, value)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Flaw:
        members = dict(pairs)
        if len(members) == len(pairs):
            return members
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return self._note(f"key {shown(twice)} stands more than once")

    def _constant(self, literal: str) -> _Flaw:
        return self._note(f"{literal} is not a JSON number")

    def _float(self, literal: str) -> float | _Flaw:
        number = float(literal)
        return number if math.isfinite(number) else self._note(f"number {shown(literal)} is out of range")

    def _int(self, literal: str) -> int | _Flaw:
        try:
            return int(literal)
        except ValueError:  # Python's limit on digits
            return self._note(f"number {shown(literal)} is out of range")

    def _note(self, reason: str) -> _Flaw:
        self._suspicious = True
        return _Flaw(reason)


def _flaw_in(value: Any) -> str | None:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, _Flaw):
            return value.reason
        if isinstance(value, str) and _SURROGATE.search(value):
            return "half of a surrogate pair, which is no character"
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
    return None


def _csv(path: Path, chunks: Iterator[bytes]) -> Iterator[Row | BadRow]:
    return _separated(path, chunks, ",")


def _tsv(path: Path, chunks: Iterator[bytes]) -> Iterator[Row | BadRow]:
    return _separated(path, chunks, "\t")


def _separated(path: Path, chunks: Iterator[bytes], delimiter: str) -> Iterator[Row | BadRow]:
    # The limit is the csv module's own for the whole process; it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES * 2))
    lines = _CsvLines(path, _lines(chunks))
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
                _refuse(path, f"has a header that cannot be read: {lines.problem}", "correct its first row")
            columns = [] if lines.blank else _check_header(path, fields, delimiter)
            continue
        if lines.problem is None and lines.blank:
            continue
        empty = False
        where = f"{_name(path)}:{lines.first}"
        if lines.problem is None and len(fields) != len(columns):
            lines.problem = f"{len(fields)} fields where the header names {len(columns)}"
        if lines.problem is None:
            yield Row(where, dict(zip(columns, fields, strict=True)))
        else:
            span = f" (the row goes on to line {lines.last})" if lines.last > lines.first else ""
            yield BadRow(where, None, lines.problem + span)
    if empty:
        what = "has a header but no rows" if columns else "is empty"
        _refuse(path, what, "write a header with the columns' names, and the rows below it")


class _CsvLines:
    """Feeds lines to `csv.reader`, and remembers what it cannot say: where a row began and what was wrong with it."""

    def __init__(self, path: Path, lines: Iterator[Line]) -> None:
        self._path = path
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
            self.problem = _too_long("").reason
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
        _refuse(self._path, what, "close the quote, or double it where it is part of the text")


def _check_header(path: Path, fields: list[str], delimiter: str) -> list[str]:
    columns = [field.strip() for field in fields]
    if "" in columns:
        what = f"gives no name to column {columns.index('') + 1}"
        _refuse(path, what, "name it in the header, or write the file without row numbers")
    twice, count = Counter(columns).most_common(1)[0]
    if count > 1:
        _refuse(path, f"has {count} columns named {shown(twice)}", "rename them in the header")
    if len(columns) == 1:
        for other in {",", ";", "\t"} - {delimiter}:
            if other in columns[0]:
                want = "commas (.csv) or tabs (.tsv)"
                _refuse(path, f"seems to be separated by {other!r}: its header is {shown(columns[0])}", f"use {want}")
    return columns


def _lines(chunks: Iterator[bytes]) -> Iterator[Line]:
    number = 0
    pending = b""
    too_long = False
    for chunk in chunks:
        pieces = (pending + chunk).splitlines(keepends=True)
        # A CR at the end may be half of a CRLF.
        pending = b"" if pieces[-1].endswith(b"\n") else pieces.pop()
        for piece in pieces:
            number += 1
            yield number, None if too_long or len(piece) > MAX_ROW_BYTES else piece
            too_long = False
        if len(pending) > MAX_ROW_BYTES:
            too_long, pending = True, pending[-1:]
    if pending:
        yield number + 1, None if too_long else pending


def _utf8(path: Path, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Take the byte order mark off, and turn UTF-16 into UTF-8."""
    head = next(chunks, b"")
    for magic, kind in _BINARY.items():
        if head.startswith(magic):
            _refuse(path, f"is {kind}", "write its rows as .jsonl or .csv")
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        _refuse(path, "is UTF-32 text", "save it as UTF-8")
    if head.startswith(codecs.BOM_UTF8):
        head = head[len(codecs.BOM_UTF8) :]
    elif head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        yield from _from_utf16(head, chunks)
        return
    elif b"\0" in head[:4]:
        _refuse(path, "is a binary file, or UTF-16 text without a byte order mark", "save it as UTF-8")
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


def _chunks(path: Path, compressed: bool) -> Iterator[bytes]:
    total = 0
    try:
        with cast(BinaryIO, gzip.open(path)) if compressed else path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                total += len(chunk)
                if compressed and total > MAX_GZIP_BYTES:
                    _refuse(path, f"unpacks to more than {MAX_GZIP_BYTES:,} bytes", "split it into smaller files")
                yield chunk
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{_place(path)} is cut off or no gzip file ({error}); copy or compress it again") from error
    except OSError as error:
        raise DataError(f"{_place(path)} cannot be read ({error.strerror or error}); check its permissions") from error


def _check_is_file(path: Path) -> None:
    try:
        if path.is_file():
            return
        exists = path.exists()
        names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    except OSError as error:
        raise DataError(f"{_place(path)} cannot be read ({error.strerror or error}); check its permissions") from error
    if exists:
        kind = "a folder" if path.is_dir() else "not a regular file"
        _refuse(path, f"is {kind}", "give the path of one data file")
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    advice = f"did you mean {', '.join(shown(name) for name in near)}?" if near else "check data.path"
    _refuse(path, "is not there", advice)


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _too_long(where: str) -> BadRow:
    return BadRow(where, None, f"longer than {MAX_ROW_BYTES:,} bytes")


def _name(path: Path) -> str:
    return _printable(path.name)


def _place(path: Path) -> str:
    return _printable(str(path))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _refuse(path: Path, what: str, advice: str) -> NoReturn:
    raise DataError(f"{_place(path)} {what}; {advice}")


_READERS: dict[str, Callable[[Path, Iterator[bytes]], Iterator[Row | BadRow]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
}
