"""From rows to encoded examples in three splits, and the data check that says what was found.

Every row is accounted for: read = kept + truncated + rejected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import numpy as np

from peftkit.config import RunConfig
from peftkit.data.examples import Example, RowEncoder
from peftkit.data.quality import quality_report
from peftkit.data.read import Found, refuse_too_many
from peftkit.data.rows import BadRow, Row
from peftkit.data.splits import assign_splits, near_duplicate_groups, order_by_hash
from peftkit.data.token_cache import Encoded, Progress, encode_cached
from peftkit.errors import DataError

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


def prepare_data(config: RunConfig, found: Found, encoder: RowEncoder, progress: Progress | None = None) -> Prepared:
    """Split and encode the rows of a run.

    Args:
        config: The run's configuration.
        found: Its rows.
        encoder: Writes rows as token ids.
        progress: Told how many rows are encoded, of how many.

    Raises:
        DataError: Too many rows are not usable, held-out rows also stand among the training rows, or none are left.
    """
    usable = found.rows + found.held_out
    with ThreadPoolExecutor(1) as beside:  # encoding is work of the tokenizer's own threads
        looking = beside.submit(_look, config, found, encoder)
        encoded_or_bad = encode_cached(encoder, usable, config, progress)
        looked = looking.result()
    if any(isinstance(one, BadRow) for one in encoded_or_bad):
        found = _without(config, found, encoded_or_bad)
        usable = found.rows + found.held_out
        looked = _look(config, found, encoder)
    encoded = [one for one in encoded_or_bad if isinstance(one, list)]
    texts, groups, split_of = looked.texts, looked.groups, looked.split_of
    chosen = _choose(config, texts, split_of)
    weighted = {**chosen, "train": _seen(chosen["train"], found.origins, config.data.weights)}
    splits = {name: _examples(config, weighted[name], usable, encoded, _limit(config, name)) for name in SPLITS}
    if not splits["train"]:
        raise DataError(f"no training rows are left of {len(usable)}; give more rows, or a smaller data.test_fraction")

    truncated = sum(any(example.truncated for example in examples) for examples in encoded)
    trained_groups = {groups[place] for place in chosen["train"]}
    report = {
        "source": found.source,
        "format": found.format,
        "read": len(usable) + len(found.bad),
        "kept": len(usable) - truncated,
        "truncated": truncated,
        "rejected": len(found.bad),
        "left_out": found.left_out,
        "rejections": [_rejection(row) for row in found.bad[:_REPORTED_REJECTIONS]],
        "available": dict(Counter(split_of)),
        "splits": {name: _describe(splits[name], config) for name in SPLITS},
        "quality": looked.quality,
        "near_duplicates": len(groups) - len(set(groups)),
        "overlap": sum(groups[place] in trained_groups for place in chosen["test"]),
        "fully_masked": sum(not example.trained_tokens and example.target is None for example in splits["train"]),
        "end_token_trained": _end_is_trained(splits["train"], config, encoder),
        "length_histogram": _histogram(splits["train"]),
        "example": {"tokens": _tokens(splits["train"][0], encoder)},
    }
    return Prepared(splits["train"], splits["validation"], splits["test"], found.bad, report)


@dataclass(frozen=True)
class _Looked:
    """What the rows' texts say of each other: groups of near-duplicates, splits that keep these together, quality."""

    texts: list[str]
    groups: list[int]
    split_of: list[str]
    quality: dict[str, Any]


def _look(config: RunConfig, found: Found, encoder: RowEncoder) -> _Looked:
    rows = found.rows + found.held_out
    texts = [encoder.split_text(row.values) for row in rows]
    groups = near_duplicate_groups(texts)
    split_of = _split(config, rows, texts, groups, held_out_from=len(found.rows))
    quality = quality_report(texts, _single_labels(config, rows), [row.where for row in rows], groups)
    return _Looked(texts, groups, split_of, quality)


def _without(config: RunConfig, found: Found, encoded: Sequence[Encoded]) -> Found:
    """Count the rows that the encoder refuses among the bad ones."""
    bad = found.bad + [one for one in encoded if isinstance(one, BadRow)]
    refuse_too_many(bad, len(found.bad) + len(encoded), config)
    keep = [isinstance(one, list) for one in encoded]
    if not any(keep):
        raise DataError(f"none of {len(bad)} rows can be used; mend them; the first is {bad[0].sentence()}")
    return replace(
        found,
        rows=list(compress(found.rows, keep)),
        held_out=list(compress(found.held_out, keep[len(found.rows) :])),
        bad=bad,
        origins=list(compress(found.origins, keep)),
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


def _limit(config: RunConfig, split: str) -> int | None:
    return {"train": config.data.train_rows, "validation": None, "test": config.evaluate.max_rows}[split]


def _choose(config: RunConfig, texts: Sequence[str], split_of: Sequence[str]) -> dict[str, list[int]]:
    """Take the rows that are used of each split, in an order that does not depend on the file's."""
    chosen: dict[str, list[int]] = {name: [] for name in SPLITS}
    for place in order_by_hash(texts, "peftkit-order-1"):
        limit = _limit(config, split_of[place])
        if limit is None or len(chosen[split_of[place]]) < limit:
            chosen[split_of[place]].append(place)
    return chosen


def _seen(places: Sequence[int], origins: Sequence[int], weights: Sequence[float] | None) -> list[int]:
    """Repeat or thin out the training rows of each source by its weight, in the order that they have."""
    if weights is None:
        return list(places)
    seen: list[int] = []
    for source, weight in enumerate(weights):
        own = [place for place in places if origins[place] == source]
        seen += own * int(weight) + own[: round(len(own) * (weight % 1))]
    return seen


def _examples(
    config: RunConfig,
    places: Sequence[int],
    rows: Sequence[Row],
    encoded: Sequence[list[Example]],
    limit: int | None,
) -> list[Example]:
    """Return the examples of rows, at most `limit`, with their weights."""
    column = config.data.weight_column
    examples = [
        example if column is None else replace(example, weight=float(rows[place].values[column]))
        for place in places
        for example in encoded[place]
    ]
    return examples[:limit]


def _rejection(row: BadRow) -> dict[str, Any]:
    return {"where": row.where, "column": row.column, "reason": row.reason}


def _describe(examples: Sequence[Example], config: RunConfig) -> dict[str, Any]:
    lengths = [len(example) for example in examples]
    trained = sum(example.trained_tokens for example in examples)
    described: dict[str, Any] = {"rows": len(examples), "truncated": sum(example.truncated for example in examples)}
    if config.task.labels:
        counts = Counter(label for example in examples for label in _labels(example, config))
        described["labels"] = {label: counts[label] for label in config.task.labels}
    if config.task.kind == "regression" and examples:
        scores = [float(example.expected) for example in examples]
        described["scores"] = {"mean": float(np.mean(scores)), "low": min(scores), "high": max(scores)}
    if lengths:
        described["tokens"] = {
            "median": float(np.median(lengths)),
            "p95": float(np.percentile(lengths, 95)),
            "max": max(lengths),
            "total": sum(lengths),
        }
        described["trained_share"] = trained / sum(lengths)
    return described


def _single_labels(config: RunConfig, rows: Sequence[Row]) -> list[str] | None:
    if config.task.kind != "classification" or config.task.multi_label:
        return None
    return [row.values["label"] for row in rows]


def _labels(example: Example, config: RunConfig) -> list[str]:
    if not config.task.multi_label:
        return [example.expected]
    return [label.strip() for label in example.expected.split(config.task.label_separator) if label.strip()]


def _histogram(examples: Sequence[Example]) -> dict[str, list[int]]:
    counts, edges = np.histogram([len(example) for example in examples], bins="auto")
    if len(counts) > 40:
        counts, edges = np.histogram([len(example) for example in examples], bins=40)
    return {"edges": [round(float(edge), 1) for edge in edges], "counts": [int(count) for count in counts]}  # type: ignore[misc]


def _end_is_trained(examples: Sequence[Example], config: RunConfig, encoder: RowEncoder) -> bool | None:
    """Whether every row trains the token that ends an answer; None where no answer is written to its end."""
    if config.task.kind == "completion" or any(example.target is not None for example in examples):
        return None
    return all(example.trained_tokens > 0 and example.trained_ids[-1] in encoder.end_ids for example in examples)


def _tokens(example: Example, encoder: RowEncoder) -> list[dict[str, Any]]:
    """Return an example's tokens as text, cut at borders of characters that need several tokens."""
    pieces: list[dict[str, Any]] = []
    marks = [False] * len(example.prompt_ids) + list(example.trained or [True] * len(example.completion_ids))
    ids = example.prompt_ids + example.completion_ids
    begun, said = 0, ""  # decoded from the border on: some tokenizers write the blank before a word only then
    for end in range(1, len(ids) + 1):
        text = str(encoder.tokenizer.decode(ids[begun:end]))
        border = end == len(ids) or marks[end] != marks[end - 1]
        if (border or not text.endswith("\ufffd")) and len(text) > len(said):
            pieces.append({"text": text[len(said) :], "trained": marks[end - 1]})
            said = text
        if border:
            begun, said = end, ""
    return pieces
