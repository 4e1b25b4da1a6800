"""Pairs of `document` and `summary` from a CORD-19 release, as AllenAI and Kaggle publish it.

    cord19:/data/cord19
    'cord19:/data/cord19?target=abstract&licence=cc-by,cc0'

The folder holds `metadata.csv`, and with `target=abstract` also `document_parses/`. `target=title` (the default) pairs
each abstract with its title; `target=abstract` pairs the body of the full text with its abstract. `licence` takes only
papers under one of these licences, by the names in metadata.csv.

A paper counts once: a later row with a cord_uid, a sha or a title (letters and digits alone) that was seen is left
out, and so is one without the two texts that make a pair. The abstract is that of metadata.csv. The body comes from
the PMC parse where there is one, since it is cleaner than that of a PDF, without sections named Abstract.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl

from peftkit.data.csv_rows import read_csv
from peftkit.data.file_rows import check_is_file, describe_file
from peftkit.data.packed import read_chunks
from peftkit.data.rows import BadRow, Input, Row, shown
from peftkit.data.text import to_utf8
from peftkit.errors import DataError, first_line

MAX_PARSE_BYTES = 100_000_000
"""Largest parse of a full text; one above it is damaged or none."""

_TARGETS = ("title", "abstract")
_COLUMNS = ("cord_uid", "sha", "title", "license", "abstract", "pdf_json_files", "pmc_json_files")


@dataclass(frozen=True)
class _Release:
    folder: Path
    target: str
    licences: frozenset[str]

    @property
    def metadata(self) -> Path:
        return self.folder / "metadata.csv"


def read_cord19(word: str) -> Iterator[Row | BadRow]:
    """Read the pairs of a release; memory holds 64 bits of each identifier that was seen.

    A parse that is missing, cut off or no JSON costs its own row.

    Args:
        word: Folder, then options behind a question mark.

    Raises:
        DataError: An option or file is not usable, or no row makes a pair.
    """
    return _pairs(_parse(word))


def describe_cord19(word: str) -> dict[str, Any]:
    """Return the release's options, and size and sha256 of its metadata.csv."""
    release = _parse(word)
    return {
        "name": release.folder.resolve().name,
        "format": "CORD-19",
        "target": release.target,
        "licences": sorted(release.licences),
        "files": [describe_file(release.metadata)],
    }


def _parse(word: str) -> _Release:
    folder, _, options = word.partition("?")
    given = dict(parse_qsl(options, keep_blank_values=True))
    target = given.pop("target", _TARGETS[0])
    licences = given.pop("licence", "") or given.pop("license", "")
    if given or target not in _TARGETS:
        wrong = next((f"{key}={value}" for key, value in given.items()), f"target={target}")
        raise DataError(
            f"cord19:{word}: {shown(wrong)} is no option; use target=title or target=abstract, and licence=cc-by,cc0"
        )
    release = _Release(
        Path(folder or ".").expanduser(),
        target,
        frozenset(name.strip().casefold() for name in licences.split(",") if name.strip()),
    )
    check_is_file(release.metadata)
    if target == "abstract" and not (release.folder / "document_parses").is_dir():
        Input.of(release.folder).refuse(
            "has no folder document_parses", "unpack document_parses.tar.gz there, or take target=title"
        )
    return release


def _pairs(release: _Release) -> Iterator[Row | BadRow]:
    source = Input.of(release.metadata)
    seen: set[int] = set()
    licences: set[str] = set()
    empty = True
    checked = False
    for row in read_csv(source, to_utf8(source, read_chunks(source, release.metadata))):
        if isinstance(row, BadRow):
            empty = False
            yield row
            continue
        if not checked:
            _check_columns(source, row)
            checked = True
        licence = row.values["license"].strip().casefold()
        licences.add(licence)
        if release.licences and licence not in release.licences:
            continue
        keys = _keys(row.values)
        if not seen.isdisjoint(keys):
            continue
        pair = _pair(release, row)
        if isinstance(pair, Row):
            seen.update(keys)
        if pair is not None:
            empty = False
            yield pair
    if empty:
        wanted = f" under {', '.join(sorted(release.licences))}" if release.licences else ""
        source.refuse(
            f"has no paper{wanted} with the two texts that make a pair",
            f"its licences are {', '.join(sorted(licences)[:20]) or 'not given'}",
        )


def _check_columns(source: Input, row: Row) -> None:
    missing = [name for name in _COLUMNS if name not in row.values]
    if missing:
        source.refuse(f"has no column {', '.join(missing)}", "give a CORD-19 release of June 2020 or later")


def _keys(paper: dict[str, str]) -> set[int]:
    """Return what identifies a paper, each hashed to 64 bits: cord_uid, sha of each PDF, and title."""
    names = [("cord_uid", paper["cord_uid"].strip())]
    names += [("sha", sha) for sha in _split(paper["sha"])]
    names.append(("title", "".join(char for char in paper["title"].casefold() if char.isalnum())))
    return {_hash(kind, value) for kind, value in names if value}


def _hash(kind: str, value: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{kind}:{value}".encode(), digest_size=8).digest())


def _pair(release: _Release, row: Row) -> Row | BadRow | None:
    """Make a paper's pair; None where it lacks one of the two texts."""
    abstract = row.values["abstract"].strip()
    if release.target == "title":
        document: str | BadRow = abstract
        summary = row.values["title"].strip()
    else:
        summary = abstract
        document = _body(release.folder, row) if summary else ""
    if isinstance(document, BadRow):
        return document
    return Row(row.where, {"document": document, "summary": summary}) if document and summary else None


def _body(folder: Path, row: Row) -> str | BadRow:
    """Return the text of the best parse, empty where there is none."""
    for column in ("pmc_json_files", "pdf_json_files"):
        for name in _split(row.values[column])[:1]:  # further ones are supplements
            try:
                return _read_parse(folder, name)
            except (OSError, ValueError, RecursionError) as error:
                reason = error.strerror if isinstance(error, OSError) else first_line(error)
                return BadRow(row.where, column, f"{shown(name)} cannot be read: {reason}")
    return ""


def _read_parse(folder: Path, name: str) -> str:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError("the path leads out of the release")
    with (folder / name).open("rb") as file:
        content = file.read(MAX_PARSE_BYTES + 1)
    if len(content) > MAX_PARSE_BYTES:
        raise ValueError(f"it is larger than {MAX_PARSE_BYTES:,} bytes")
    parse = json.loads(content)
    paragraphs = parse.get("body_text") if isinstance(parse, dict) else None
    if not isinstance(paragraphs, list) or not all(map(_is_paragraph, paragraphs)):
        raise ValueError("it has no body_text, a list of paragraphs")
    texts = [part["text"].strip() for part in paragraphs if not _is_abstract(part)]
    return "\n\n".join(text for text in texts if text)


def _is_paragraph(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)


def _is_abstract(paragraph: dict[str, Any]) -> bool:
    return str(paragraph.get("section")).strip().casefold() == "abstract"


def _split(cell: str) -> list[str]:
    return [value.strip() for value in cell.split(";") if value.strip()]
