"""Where rows come from: one word for each source, and the same rows whatever it is.

    reviews.csv   reviews.jsonl.zst   reviews.parquet     a file, by its ending (file_rows.py)
    notes.txt   paragraphs:notes.txt   documents:books/   text: lines, paragraphs or whole files (text_rows.py)
    reviews/                                              all data files of a folder (folder_rows.py)
    'reviews-*.csv'   'data/**/*.jsonl'                   a glob, in sorted order
    -                                                     standard input (stdin_rows.py)
    hf:owner/name:config@revision#train[:1000]            the Hugging Face hub (hf_rows.py)
    kaggle:owner/name/file.csv                            Kaggle (kaggle_rows.py)
    cord19:/data/cord19?target=abstract                   a CORD-19 release (cord19_rows.py)
    'sql:sqlite:///reviews.db#select * from reviews'      a database (sql_rows.py)

Whatever a source holds, there are two outcomes beside a `Row`: a `BadRow` where one row cannot be used, and a
`DataError` where the source as a whole cannot.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.data.cord19_rows import describe_cord19, read_cord19
from peftkit.data.file_rows import describe_file, read_file
from peftkit.data.folder_rows import describe_folder, read_folder
from peftkit.data.hf_rows import describe_hf, read_hf
from peftkit.data.kaggle_rows import describe_kaggle, read_kaggle
from peftkit.data.rows import BadRow, Row, printable
from peftkit.data.sql_rows import describe_sql, read_sql, redact_sql
from peftkit.data.stdin_rows import read_stdin
from peftkit.data.text_rows import UNITS
from peftkit.errors import DataError


@dataclass(frozen=True)
class _Scheme:
    read: Callable[[str], Iterator[Row | BadRow]]
    describe: Callable[[str], dict[str, Any]]


_SCHEMES = {
    "hf": _Scheme(read_hf, describe_hf),
    "kaggle": _Scheme(read_kaggle, describe_kaggle),
    "cord19": _Scheme(read_cord19, describe_cord19),
    "sql": _Scheme(read_sql, describe_sql),
}


def read_rows(source: str | Path, *, name: str | None = None) -> Iterator[Row | BadRow]:
    """Read one source row by row.

    The word, and whether there is such a file, are checked at once; the content as rows are taken.

    Args:
        source: A word as above, but no glob (`expand_sources`); a `Path` is always a file or folder.
        name: For a file or folder, how its rows are named (`source_names`); else by the file's name, or its path
            inside the folder.

    Raises:
        DataError: There is no such source, or nothing in it can be used, or what was read so far is all that can.
        MissingDependencyError: The source needs a library that is not installed.
    """
    scheme, rest = _split(source)
    if scheme in _SCHEMES:
        return _SCHEMES[scheme].read(rest)
    if source == "-":
        return read_stdin()
    path = Path(rest).expanduser()
    if _is_folder(path):
        return read_folder(path, name=name, unit=scheme)
    return read_file(path, name=name, unit=scheme)


def expand_sources(sources: Sequence[str]) -> list[str]:
    """Put the files of a glob, sorted, in its place; leave all other words as they are.

    A file whose name holds `*`, `?` or `[` is taken as it is. Hidden files match only a pattern that names the dot.

    Raises:
        DataError: A glob matches nothing.
    """
    expanded: list[str] = []
    for source in sources:
        scheme, rest = _split(source)
        path = Path(rest).expanduser()
        if scheme in _SCHEMES or not glob.has_magic(rest) or _exists(path):
            expanded.append(source)
            continue
        matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 - pathlib takes no absolute pattern
        found = sorted(one for one in matches if Path(one).is_file())
        if not found:
            raise DataError(f"{printable(source)} matches no file; check the pattern, and put quotes around it")
        expanded += [f"{scheme}:{one}" if scheme else one for one in found]
    return expanded


def source_names(sources: Sequence[str]) -> list[str | None]:
    """Return for each word the `name` under which its rows can be told from those of the others.

    A single word needs none. Of several files and folders each gets as many of the last parts of its path as it takes;
    the other sources name their rows themselves.
    """
    if len(sources) < 2:
        return [None] * len(sources)
    split = [(source, *_split(source)) for source in sources]
    parts = [None if source == "-" or scheme in _SCHEMES else Path(rest).parts for source, scheme, rest in split]
    paths = [one for one in parts if one is not None]
    return [None if own is None else _shortest(own, paths) for own in parts]


def describe_source(source: str) -> dict[str, Any]:
    """Say for the data report what was read.

    Returns:
        `name`; for files also `bytes` and `sha256`, for a folder `files` and `left_out`, for the hub `repo`, `config`,
        `revision` (a commit) and `split`, for Kaggle `version`, for CORD-19 its options, for a database the `url`
        without password and the `query`.
    """
    scheme, rest = _split(source)
    if scheme in _SCHEMES:
        return _SCHEMES[scheme].describe(rest)
    if source == "-":
        return {"name": "standard input"}
    path = Path(rest).expanduser()
    unit = {"unit": scheme} if scheme else {}
    return (describe_folder(path, scheme) if _is_folder(path) else describe_file(path)) | unit


def redact_source(source: str) -> str:
    """Return a word without password, for messages and for what a run writes down."""
    scheme, rest = _split(source)
    return f"sql:{redact_sql(rest)}" if scheme == "sql" else source


def _split(source: str | Path) -> tuple[str | None, str]:
    """Return what stands before the colon, if it is a scheme or a unit of text, and the rest."""
    if isinstance(source, str):
        scheme, colon, rest = source.partition(":")
        if colon and (scheme in _SCHEMES or scheme in UNITS):
            return scheme, rest
    return None, str(source)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long is none that exists
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # said better where the file is opened
        return False


def _shortest(own: tuple[str, ...], all_parts: Sequence[tuple[str, ...]]) -> str:
    others = [one for one in all_parts if one != own]
    for count in range(1, len(own)):
        if all(one[-count:] != own[-count:] for one in others):
            return "/".join(own[-count:])
    return str(Path(*own))
