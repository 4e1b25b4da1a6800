"""From a source of rows to encoded examples in three splits, and the data check that says what was found.

Every row is accounted for: read = kept + truncated + rejected.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peftkit.config import RunConfig
from peftkit.data.columns import choose_columns
from peftkit.data.encode import Encoder, Example
from peftkit.data.rows import BadRow, Row
from peftkit.data.sources import read_rows
from peftkit.data.splits import assign_splits, near_duplicate_groups, order_by_hash
from peftkit.errors import DataError
from peftkit.recipe import Recipe

SPLITS = ("train", "validation", "test")
_REPORTED_REJECTIONS = 100


@dataclass(frozen=True)
class Prepared:
    """Examples of each split, what was rejected, and the data check (the content of `data.json`)."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    rejected: list[BadRow]
    report: dict[str, Any]


def prepare_data(config: RunConfig, recipe: Recipe, encoder: Encoder) -> Prepared:
    """Read, check, split and encode the rows of a run.

    Raises:
        DataError: A file or row is not usable, held-out rows also stand among the training rows, or none are left.
    """
    rows, bad, left_out = _read(config, recipe, config.data.path)
    rows, bad_labels = _with_labels(rows, config)
    bad += bad_labels
    held_out: list[Row] = []
    if config.data.test_path:
        held_out, bad_held_out, _ = _read(config, recipe, config.data.test_path)
        held_out, bad_labels = _with_labels(held_out, config)
        bad += bad_held_out + bad_labels
    usable = rows + held_out
    _refuse_too_many(bad, len(bad) + len(usable), config)
    if not usable and bad:
        raise DataError(f"none of {len(bad)} rows can be used; mend them; the first is {bad[0].sentence()}")
    if not usable:
        raise DataError("there are no rows to use; give a file with at least a few dozen rows")

    texts = ["\n".join(row.values[name] for name in encoder.required_columns()) for row in usable]
    groups = near_duplicate_groups(texts)
    split_of = _split(config, usable, texts, groups, held_out_from=len(rows))
    examples = [encoder.encode(row.where, row.values) for row in usable]
    chosen = _choose(config, texts, split_of)
    splits = {name: [examples[place] for place in chosen[name]] for name in SPLITS}
    if not splits["train"]:
        raise DataError(f"no training rows are left of {len(usable)}; give more rows, or a smaller data.test_fraction")

    truncated = sum(example.truncated for example in examples)
    trained_groups = {groups[place] for place in chosen["train"]}
    report = {
        "source": _source(config, recipe),
        "read": len(usable) + len(bad),
        "kept": len(usable) - truncated,
        "truncated": truncated,
        "rejected": len(bad),
        "left_out": left_out,
        "rejections": [_rejection(row) for row in bad[:_REPORTED_REJECTIONS]],
        "available": dict(Counter(split_of)),
        "splits": {name: _describe(splits[name], config) for name in SPLITS},
        "near_duplicates": len(groups) - len(set(groups)),
        "overlap": sum(groups[place] in trained_groups for place in chosen["test"]),
        "fully_masked": sum(not example.completion_ids for example in examples),
        "end_token_trained": all(_ends(example, encoder) for example in examples),
        "length_histogram": _histogram(splits["train"]),
        "example": {"tokens": _tokens(splits["train"][0], encoder)},
    }
    return Prepared(splits["train"], splits["validation"], splits["test"], bad, report)


def _read(config: RunConfig, recipe: Recipe, path: str | None) -> tuple[list[Row], list[BadRow], int]:
    """Return rows with the recipe's column names, bad rows, and how many the recipe leaves out on purpose."""
    if path is None:
        if recipe.embedded is None:
            raise DataError(f"recipe '{recipe.name}' has no embedded data; give your rows with data.path=FILE")
        given = list(recipe.embedded.rows())
        rows = [
            Row(f"{recipe.embedded.asset}:{number}", dict(values))
            for number, values in enumerate(given, 1)
            if values is not None
        ]
        return rows, [], len(given) - len(rows)
    return *_rename(read_rows(Path(path)), config, recipe), 0


def _rename(found: Iterable[Row | BadRow], config: RunConfig, recipe: Recipe) -> tuple[list[Row], list[BadRow]]:
    rows: list[Row] = []
    bad: list[BadRow] = []
    mapping: dict[str, str] | None = None
    for row in found:
        if isinstance(row, BadRow):
            bad.append(row)
            continue
        if mapping is None:
            mapping = choose_columns(list(row.values), recipe.columns, config.data.columns)
        renamed = _one(row, mapping)
        (bad if isinstance(renamed, BadRow) else rows).append(renamed)  # type: ignore[arg-type]
    return rows, bad


def _one(row: Row, mapping: Mapping[str, str]) -> Row | BadRow:
    values: dict[str, Any] = {}
    for wanted, name in mapping.items():
        if name not in row.values or row.values[name] is None:
            return BadRow(row.where, name, "missing")
        value = row.values[name]
        if not isinstance(value, str | int | float):
            return BadRow(row.where, name, f"an {'array' if isinstance(value, list) else 'object'}, not text")
        if not str(value).strip():
            return BadRow(row.where, name, "empty")
        values[wanted] = str(value).strip() if not isinstance(value, bool) else str(value).lower()
    return Row(row.where, values)


def _with_labels(rows: Sequence[Row], config: RunConfig) -> tuple[list[Row], list[BadRow]]:
    """Write each label as the task names it; a row with another one is bad."""
    if config.task.labels is None or "label" not in (rows[0].values if rows else {}):
        return list(rows), []
    names = {label.casefold(): label for label in config.task.labels}
    names |= {given.casefold(): names[label.casefold()] for given, label in config.data.label_names.items()}
    good: list[Row] = []
    bad: list[BadRow] = []
    for row in rows:
        given = row.values["label"]
        if given.casefold() in names:
            good.append(Row(row.where, {**row.values, "label": names[given.casefold()]}))
        else:
            allowed = ", ".join(config.task.labels)
            bad.append(
                BadRow(
                    row.where,
                    "label",
                    f"'{given}' is not one of {allowed}; name it with data.label_names.{given}=... or task.labels=...",
                )
            )
    return good, bad


def _refuse_too_many(bad: Sequence[BadRow], read: int, config: RunConfig) -> None:
    if not bad:
        return
    if config.data.on_bad_row == "error":
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise DataError(f"{bad[0].sentence()}{more}; mend it, or leave bad rows out with data.on_bad_row=skip")
    if len(bad) > config.data.max_bad_fraction * read:
        raise DataError(
            f"{len(bad)} of {read} rows are bad ({len(bad) / read:.1%}), more than data.max_bad_fraction="
            f"{config.data.max_bad_fraction}; mend them or raise it; the first is {bad[0].sentence()}"
        )


def _split(
    config: RunConfig, rows: Sequence[Row], texts: Sequence[str], groups: Sequence[int], *, held_out_from: int
) -> list[str]:
    """Name each row's split; held-out rows of a file of their own must not stand among the others."""
    data = config.data
    if not data.test_path:
        return list(assign_splits(texts, groups, validation=data.validation_fraction, test=data.test_fraction))
    place_of = {group: place for place, group in enumerate(groups[:held_out_from])}
    shared = [place for place in range(held_out_from, len(rows)) if groups[place] in place_of]
    if shared:
        held_out, trained = rows[shared[0]], rows[place_of[groups[shared[0]]]]
        raise DataError(
            f"{len(shared)} held-out rows also stand among the training rows (first: {held_out.where} is "
            f"{trained.where}); take them out of one file, or the evaluation would flatter"
        )
    first = slice(held_out_from)
    names = assign_splits(texts[first], groups[first], validation=data.validation_fraction, test=0.0)
    return [*names, *["test"] * (len(rows) - held_out_from)]


def _choose(config: RunConfig, texts: Sequence[str], split_of: Sequence[str]) -> dict[str, list[int]]:
    """Take the rows that are used of each split, in an order that does not depend on the file's."""
    limits = {"train": config.data.train_rows, "validation": None, "test": config.evaluate.max_rows}
    chosen: dict[str, list[int]] = {name: [] for name in SPLITS}
    for place in order_by_hash(texts, "peftkit-order-1"):
        limit = limits[split_of[place]]
        if limit is None or len(chosen[split_of[place]]) < limit:
            chosen[split_of[place]].append(place)
    return chosen


def _source(config: RunConfig, recipe: Recipe) -> dict[str, Any]:
    if config.data.path is None:
        assert recipe.embedded is not None
        return {"name": recipe.embedded.name, "asset": recipe.embedded.asset, "licence": recipe.embedded.licence}
    files = [Path(path) for path in (config.data.path, config.data.test_path) if path]
    return {
        "name": files[0].name,
        "files": [{"name": file.name, "bytes": file.stat().st_size, "sha256": _sha256(file)} for file in files],
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rejection(row: BadRow) -> dict[str, Any]:
    return {"where": row.where, "column": row.column, "reason": row.reason}


def _describe(examples: Sequence[Example], config: RunConfig) -> dict[str, Any]:
    lengths = [len(example) for example in examples]
    trained = sum(len(example.completion_ids) for example in examples)
    described: dict[str, Any] = {"rows": len(examples), "truncated": sum(example.truncated for example in examples)}
    if config.task.labels:
        counts = Counter(example.expected for example in examples)
        described["labels"] = {label: counts[label] for label in config.task.labels}
    if lengths:
        described["tokens"] = {
            "median": float(np.median(lengths)),
            "p95": float(np.percentile(lengths, 95)),
            "max": max(lengths),
            "total": sum(lengths),
        }
        described["trained_share"] = trained / sum(lengths)
    return described


def _histogram(examples: Sequence[Example]) -> dict[str, list[int]]:
    counts, edges = np.histogram([len(example) for example in examples], bins="auto")
    if len(counts) > 40:
        counts, edges = np.histogram([len(example) for example in examples], bins=40)
    return {"edges": [round(float(edge), 1) for edge in edges], "counts": [int(count) for count in counts]}  # type: ignore[misc]


def _ends(example: Example, encoder: Encoder) -> bool:
    return bool(example.completion_ids) and example.completion_ids[-1] in encoder.end_ids


def _tokens(example: Example, encoder: Encoder) -> list[dict[str, Any]]:
    """Return an example's tokens as text, cut at borders of characters that need several tokens."""
    pieces: list[dict[str, Any]] = []
    for ids, trained in ((example.prompt_ids, False), (example.completion_ids, True)):
        shown = 0
        for end in range(1, len(ids) + 1):
            text = str(encoder.tokenizer.decode(ids[shown:end]))
            if not text.endswith("\ufffd") or end == len(ids):
                pieces.append({"text": text, "trained": trained})
                shown = end
    return pieces
