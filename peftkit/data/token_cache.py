"""Encode rows in chunks with progress, and keep the token ids by a hash of all that made them.

A second run on the same rows, tokenizer, template and task reads them back. Files lie in the cache's `tokens` folder;
the least recently used go when all together pass `MAX_BYTES`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peftkit.config import RunConfig
from peftkit.data.examples import Example, RowEncoder, ids_shared
from peftkit.data.rows import BadRow, Row
from peftkit.errors import DataError
from peftkit.model.assets import cache_folder
from peftkit.rundir import atomic

if TYPE_CHECKING:
    from numpy.typing import NDArray

Encoded = list[Example] | BadRow
"""A row's examples, or why the encoder refuses it."""
Progress = Callable[[int, int], None]
"""Told how many rows are done, of how many."""

LEAST_ROWS = 2000
"""Fewer rows are encoded faster than a file is worth."""
MAX_BYTES = 4 * 2**30
_CHUNK = 1000
_VERSION = 2  # of the files, and of what encoders make of a row


def encode_cached(
    encoder: RowEncoder, rows: Sequence[Row], config: RunConfig, progress: Progress | None = None
) -> list[Encoded]:
    """Return what became of each row, from the cache if the same rows were encoded in the same way before.

    Raises:
        DataError: The encoder refuses a row, and `data.on_bad_row` is not `skip`.
    """
    path = None
    skip = config.data.on_bad_row == "skip"
    if len(rows) >= LEAST_ROWS:
        path = cache_folder() / "tokens" / f"{_key(encoder, rows, config)}.safetensors"
        found = _read(path, rows)
        if found and (skip or not any(isinstance(one, BadRow) for one in found)):
            if progress is not None:
                progress(len(rows), len(rows))
            return found
    encoded: list[Encoded] = []
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        encoded += _encode_each(encoder, chunk) if skip else encoder.encode_rows(chunk)
        if progress is not None:
            progress(len(encoded), len(rows))
    if path is not None:
        _write(path, encoded)
    return encoded


def _encode_each(encoder: RowEncoder, rows: Sequence[Row]) -> list[Encoded]:
    """Encode rows in one batch, or in halves of it down to the rows that the encoder refuses."""
    try:
        return list(encoder.encode_rows(rows))
    except DataError as error:
        if len(rows) == 1:
            return [BadRow(rows[0].where, None, str(error).removeprefix(f"{rows[0].where}: "))]
    middle = len(rows) // 2
    return _encode_each(encoder, rows[:middle]) + _encode_each(encoder, rows[middle:])


def _key(encoder: RowEncoder, rows: Sequence[Row], config: RunConfig) -> str:
    from importlib.metadata import version

    from peftkit.model.fingerprint import tokenizer_hash

    made_by = [
        _VERSION,
        version("peftkit"),
        type(encoder).__name__,
        tokenizer_hash(encoder.tokenizer),
        encoder.template,
        config.task.model_dump(mode="json"),
        config.model.chat_template_kwargs,
        config.train.max_length,
        config.evaluate.max_new_tokens,
    ]
    digest = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode())
    for row in rows:
        digest.update(json.dumps(row.values, sort_keys=True).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Saved:
    """What a file holds of one example beside its ids."""

    row: int
    prompt: int
    completion: int
    truncated: bool
    masked: bool
    expected: str
    target: Any


def _write(path: Path, encoded: Sequence[Encoded]) -> None:
    """Keep what became of the rows; a cache that cannot be written costs time, and no run."""
    from safetensors.numpy import save_file

    refused = [(row, bad.reason) for row, bad in enumerate(encoded) if isinstance(bad, BadRow)]
    examples = [(row, one) for row, several in enumerate(encoded) if isinstance(several, list) for one in several]
    about = [
        (
            row,
            len(one.prompt_ids),
            len(one.completion_ids),
            one.truncated,
            one.trained is not None,
            one.expected,
            one.target,
        )
        for row, one in examples
    ]
    total = sum(len(one) for _, one in examples)
    masks = sum(len(one.completion_ids) for _, one in examples if one.trained is not None)
    tensors = {
        "ids": np.fromiter(
            chain.from_iterable(ids for _, one in examples for ids in (one.prompt_ids, one.completion_ids)),
            np.int32,
            total,
        ),
        "trained": np.fromiter((kept for _, one in examples for kept in one.trained or ()), np.uint8, masks),
        "about": np.frombuffer(json.dumps([about, refused]).encode("utf-8", "surrogatepass"), np.uint8),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            save_file(tensors, temporary)
        _shrink(path.parent)
    except OSError:
        return


def _read(path: Path, rows: Sequence[Row]) -> list[Encoded] | None:
    """Return what a file holds of the rows, or None where it is absent or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        os.utime(path)  # the least recently used go first
        about, refused = json.loads(tensors["about"].tobytes().decode("utf-8", "surrogatepass"))
        several: list[list[Example]] = [[] for _ in rows]
        for saved, prompt, completion, trained in _pieces(
            [_Saved(*one) for one in about], tensors["ids"], tensors["trained"]
        ):
            target = tuple(saved.target) if isinstance(saved.target, list) else saved.target
            row = rows[saved.row]
            several[saved.row].append(
                Example(row.where, row.values, saved.expected, prompt, completion, saved.truncated, trained, target)
            )
        encoded: list[Encoded] = [*several]
        for number, reason in refused:
            encoded[number] = BadRow(rows[number].where, None, reason)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError):
        return None
    return encoded


def _pieces(
    about: Sequence[_Saved], ids: NDArray[np.int32], marks: NDArray[np.uint8]
) -> Iterator[tuple[_Saved, list[int], list[int], list[bool] | None]]:
    at = mark = 0
    for saved in about:
        middle, end = at + saved.prompt, at + saved.prompt + saved.completion
        trained = marks[mark : mark + saved.completion].astype(bool).tolist() if saved.masked else None
        yield saved, ids_shared(ids[at:middle].tolist()), ids_shared(ids[middle:end].tolist()), trained
        at, mark = end, mark + (saved.completion if saved.masked else 0)
    if at != len(ids) or mark != len(marks):
        raise ValueError("the file is cut off")


def _shrink(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime, reverse=True)
    total = 0
    for file in files:
        total += file.stat().st_size
        if total > MAX_BYTES:
            file.unlink(missing_ok=True)
