"""The rows of JSON lines and of a JSON array."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from peftkit.data.rows import BadRow, Input, Row, shown
from peftkit.data.text import MAX_ROW_BYTES, split_lines, too_long

MAX_JSON_BYTES = 2**30
"""Largest .json file, which is held in memory whole; JSON lines are not."""

_SPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json_lines(source: Input, chunks: Iterator[bytes]) -> Iterator[Row | BadRow]:
    """Read one JSON object from each line."""
    decoder = _JsonDecoder()
    empty = True
    for number, line in split_lines(chunks):
        if line is not None and not line.strip():
            continue
        empty = False
        yield _json_line(f"{source.name}:{number}", line, decoder)
    if empty:
        source.refuse("holds no rows", "write one JSON object on each line")


def _json_line(where: str, line: bytes | None, decoder: _JsonDecoder) -> Row | BadRow:
    if line is None:
        return too_long(where)
    try:
        text = line.decode()
        value, end = decoder.value_at(text, _skip_space(text, 0))
        end = _skip_space(text, end)
    except UnicodeDecodeError as error:
        return BadRow(where, None, f"byte {error.start + 1} of the line is not valid UTF-8")
    except json.JSONDecodeError as error:
        return BadRow(where, None, f"not JSON: {_said(error, text)} (column {error.colno})")
    except RecursionError:
        return BadRow(where, None, "nested too deeply")
    if end != len(text):
        return BadRow(where, None, f"more than one JSON value (column {end + 1})")
    return decoder.row(where, value)


def _said(error: json.JSONDecodeError, text: str) -> str:
    """Return the parser's reason as one can go on from it."""
    if text[error.pos : error.pos + 1] in ("\n", "\r"):
        return "a text is not closed before its line ends"
    return error.msg.removesuffix(" at")


def read_json(source: Input, chunks: Iterator[bytes]) -> Iterator[Row | BadRow]:
    """Read the objects of one array, held in memory whole."""
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) > MAX_JSON_BYTES:
            source.refuse(f"is larger than {MAX_JSON_BYTES:,} bytes", "write it as .jsonl, which is read row by row")
    # An invalid byte becomes a lone surrogate here, so that it costs its own row and no other.
    text = content.decode("utf-8", "surrogateescape")
    del content
    decoder = _JsonDecoder()
    if not text.strip():
        source.refuse("is empty", "write an array of JSON objects")
    try:
        yield from _json_elements(source, text, decoder)
    except json.JSONDecodeError as error:
        what = f"is not JSON: {_said(error, text)} at line {error.lineno}, column {error.colno}"
        source.refuse(what, "correct it there")
    except RecursionError:
        source.refuse("is nested too deeply", "write an array of JSON objects")


def _json_elements(source: Input, text: str, decoder: _JsonDecoder) -> Iterator[Row | BadRow]:
    start, inside_object = _find_array(source, text, decoder)
    position = _skip_space(text, start + 1)
    place = _Place(text)
    index = 0
    while index or text[position : position + 1] != "]":
        begin = position
        value, position = decoder.value_at(text, begin)
        where = f"{source.name}[{index}]"
        invalid = _SURROGATE.search(text, begin, position)
        if position - begin > MAX_ROW_BYTES:
            yield too_long(where)
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
        source.refuse("holds no rows", "write an array of JSON objects")


def _find_array(source: Input, text: str, decoder: _JsonDecoder) -> tuple[int, bool]:
    """Return where the array of rows begins, and whether it is a member of an object."""
    start = _skip_space(text, 0)
    if text[start : start + 1] == "[":
        return start, False
    value, end = decoder.value_at(text, start)
    if (end := _skip_space(text, end)) != len(text):
        what = f"holds more than one JSON value (line {text.count(chr(10), 0, end) + 1})"
        source.refuse(what, "write an array of JSON objects, or name the file .jsonl if each line is one object")
    if not isinstance(value, dict) or sum(isinstance(member, list) for member in value.values()) != 1:
        source.refuse("is neither an array of objects nor an object with one array", "write an array of JSON objects")
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


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position
