"""The rows of all data files in a folder and the folders below it, in the order of their paths.

    reviews/   documents:books/

A folder with data files gives their rows, and its text files (a README, say) are left out. In a folder of text files
alone each file is one row. Files of other kinds are left out too, and listed in the data report; hidden files and
folders, and the bookkeeping of `datasets.save_to_disk`, are no data and not listed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.data.file_rows import describe_file, is_record_file, is_text_file, read_file
from peftkit.data.rows import BadRow, Input, Row, printable

_BOOKKEEPING = {"dataset_info.json", "state.json", "dataset_dict.json"}


@dataclass(frozen=True)
class _Content:
    read: list[Path]
    left_out: list[Path]
    unit: str | None


def read_folder(folder: Path, *, name: str | None = None, unit: str | None = None) -> Iterator[Row | BadRow]:
    """Read the files of a folder; rows are named by the path inside it, behind a name if one is given.

    Args:
        folder: The folder.
        name: What stands before the path inside the folder.
        unit: Read only text files, cut into `lines`, `paragraphs` or `documents`.

    Raises:
        DataError: The folder cannot be read or holds no file of a known format, or one of its files cannot be used.
    """
    content = _content(folder, unit)
    return _rows(folder, content, f"{name}/" if name else "")


def _rows(folder: Path, content: _Content, prefix: str) -> Iterator[Row | BadRow]:
    for path in content.read:
        yield from read_file(path, name=prefix + _inside(folder, path), unit=content.unit)


def describe_folder(folder: Path, unit: str | None = None) -> dict[str, Any]:
    """Return a folder's name, its files with sizes and sha256, and the names of those that are left out."""
    content = _content(folder, unit)
    return {
        "name": printable(folder.resolve().name),
        "files": [describe_file(path, _inside(folder, path)) for path in content.read],
        "left_out": [printable(_inside(folder, path)) for path in content.left_out],
    }


def _content(folder: Path, unit: str | None) -> _Content:
    source = Input.of(folder)
    try:
        found = sorted(_walk(folder), key=lambda path: path.relative_to(folder).parts)
    except OSError as error:
        where = printable(str(error.filename or folder))
        source.refuse(f"cannot be read ({error.strerror or error}: {where})", "check its permissions")
    text = [path for path in found if is_text_file(path)]
    records = [] if unit else [path for path in found if is_record_file(path)]
    read = records or text
    if not read:
        source.refuse(
            f"holds no {'text' if unit else 'data'} file that peftkit reads",
            "put .jsonl, .csv, .parquet or .txt files there" if not unit else "put .txt or .md files there",
        )
    chosen = set(read)
    return _Content(read, [path for path in found if path not in chosen], unit or (None if records else "documents"))


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and name not in _BOOKKEEPING:
                yield Path(parent, name)


def _inside(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()
