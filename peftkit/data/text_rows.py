"""Plain text as rows of one column, `text`: a row for each line, paragraph, or file.

Text is not trained line by line where it should teach how sentences follow each other, so the unit can be chosen with a
word before the path: `paragraphs:notes.txt`, `documents:books/`, `lines:corpus/`. Without one, a file gives its lines,
as the `text` loader of `datasets` does, and each file of a folder is a document.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from peftkit.data.rows import BadRow, Input, Row
from peftkit.data.text import MAX_ROW_BYTES, split_lines, too_long

TextReader = Callable[[Input, Iterator[bytes]], Iterator[Row | BadRow]]


def read_lines(source: Input, chunks: Iterator[bytes]) -> Iterator[Row | BadRow]:
    """Read a row from each line that is not blank."""
    empty = True
    for number, line in split_lines(chunks):
        if line is None or line.strip():
            empty = False
            yield _row(f"{source.name}:{number}", line)
    if empty:
        source.refuse("holds no text", "write a text on each line")


def read_paragraphs(source: Input, chunks: Iterator[bytes]) -> Iterator[Row | BadRow]:
    """Read a row from each run of lines without a blank one between them; it is placed by its first line."""
    first, size = 0, 0
    lines: list[bytes] = []
    empty = True
    for number, line in itertools.chain(split_lines(chunks), [(0, b"")]):
        if line is None or line.strip():
            first = first or number
            size += MAX_ROW_BYTES + 1 if line is None else len(line)
            if size <= MAX_ROW_BYTES and line is not None:
                lines.append(line)
        elif first:
            empty = False
            yield _row(f"{source.name}:{first}", b"".join(lines) if size <= MAX_ROW_BYTES else None)
            first, lines, size = 0, [], 0
    if empty:
        source.refuse("holds no text", "write paragraphs with a blank line between them")


def read_document(source: Input, chunks: Iterator[bytes]) -> Iterator[Row | BadRow]:
    """Read all of it as one row."""
    content = bytearray()
    for chunk in chunks:
        if len(content) <= MAX_ROW_BYTES:
            content += chunk
    yield _row(source.name, bytes(content) if len(content) <= MAX_ROW_BYTES else None)


UNITS: dict[str, TextReader] = {"lines": read_lines, "paragraphs": read_paragraphs, "documents": read_document}
"""How text is cut into rows, by the word before the path."""


def _row(where: str, content: bytes | None) -> Row | BadRow:
    if content is None:
        return too_long(where)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        return BadRow(where, "text", f"byte {error.start + 1} of it is not valid UTF-8")
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    return Row(where, {"text": text}) if text.strip() else BadRow(where, "text", "empty")
