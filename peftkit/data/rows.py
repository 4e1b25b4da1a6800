"""The contract of rows: what a data file gives, one by one, and what is said of a row that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from peftkit.errors import DataError

MAX_SHOWN = 60
"""Characters of a name or value that a message repeats."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data file."""

    where: str
    """Name and 1-based line (`reviews.csv:17`), or 0-based element of an array or table (`reviews.parquet[16]`)."""

    values: dict[str, Any]
    """Column to value: always text from CSV and TSV, else any JSON value (`peftkit.data.values`)."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """One row that cannot be used, and why."""

    where: str
    column: str | None
    reason: str

    def sentence(self) -> str:
        """Say it in one line: `reviews.csv:17, column 'text': empty`."""
        if self.column is None:
            return f"{self.where}: {self.reason}"
        return f"{self.where}, column {shown(self.column)}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Input:
    """What rows are read from, as messages name it."""

    place: str
    """In an error about all of it: a path as the user gave it."""

    name: str
    """Before the number of a row."""

    @classmethod
    def of(cls, path: Path, name: str | None = None) -> Input:
        """Name a file by its path and, unless another name is given, its file name; unprintable characters escaped."""
        return cls(printable(str(path)), printable(name or path.name))

    def refuse(self, what: str, advice: str) -> NoReturn:
        """Raise the `DataError` that says what is wrong with all of it, and what to do."""
        raise DataError(f"{self.place} {what}; {advice}")


def printable(text: str) -> str:
    """Escape the characters of a name that a message cannot show."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shown(value: str) -> str:
    """Quote a name or value from a file for a message: cut to `MAX_SHOWN` characters, unprintable ones escaped."""
    return repr(value if len(value) <= MAX_SHOWN else value[: MAX_SHOWN - 3] + "...")
