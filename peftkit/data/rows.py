"""The contract of rows: what a data file gives, one by one, and what is said of a row that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_SHOWN = 60
"""Characters of a name or value that a message repeats."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data file."""

    where: str
    """File name and 1-based line (`reviews.csv:17`), or 0-based element of a JSON array (`reviews.json[16]`)."""

    values: dict[str, Any]
    """Column to value: always text from CSV and TSV, any JSON value from JSON."""


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


def shown(value: str) -> str:
    """Quote a name or value from a file for a message: cut to `MAX_SHOWN` characters, unprintable ones escaped."""
    return repr(value if len(value) <= MAX_SHOWN else value[: MAX_SHOWN - 3] + "...")
