"""From a configuration's sources to the rows of a recipe: read, named as the recipe names them, checked, labelled."""

from __future__ import annotations

import difflib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from peftkit.config import RunConfig
from peftkit.data.columns import choose_columns
from peftkit.data.formats import conversation_of, detect_format
from peftkit.data.rows import BadRow, Row, shown
from peftkit.data.sources import describe_source, expand_sources, read_rows, source_names
from peftkit.errors import DataError
from peftkit.recipe import Recipe

MAX_FOUND_LABELS = 200
"""Most labels that are taken from the data; more look like texts or scores."""


@dataclass(frozen=True)
class Found:
    """The rows of a run before they are split and encoded.

    Attributes:
        rows: Good rows of `data.path`, or of the embedded data; their values go by the recipe's names of columns.
        held_out: Good rows of `data.test_path`.
        bad: Rows that cannot be used.
        left_out: How many embedded rows the recipe leaves out on purpose.
        origins: For each of `rows` the number of its source.
        labels: The allowed labels, for classification.
        source: What was read, for the data report.
        format: How rows were read, as in `data.format`; `columns` where columns were matched by name.
    """

    rows: list[Row]
    held_out: list[Row]
    bad: list[BadRow]
    left_out: int
    origins: list[int]
    labels: tuple[str, ...] | None
    source: dict[str, Any]
    format: str


def read_data(config: RunConfig, recipe: Recipe) -> Found:
    """Read the rows of a run.

    Raises:
        DataError: A source or row is not usable, or no row is left.
    """
    reader = _Reader(config, recipe)
    left_out = 0
    origins: list[int] = []
    held_out: list[Row] = []
    if config.data.path is None:
        rows, left_out = reader.embedded()
        source = reader.embedded_source()
    else:
        trained = [(number, one) for number, word in enumerate(config.data.path) for one in expand_sources([word])]
        words = [word for _, word in trained] + expand_sources(config.data.test_path or ())
        names = source_names(words)
        rows = []
        for (number, word), name in zip(trained, names, strict=False):
            more = reader.read(word, name)
            rows += more
            origins += [number] * len(more)
        apart = list(zip(words, names, strict=True))[len(trained) :]
        held_out = [row for word, name in apart for row in reader.read(word, name)]
        source = _described(words)
    labels = config.task.labels
    if config.task.kind == "classification":
        if labels is None:
            refuse_too_many(reader.bad, len(reader.bad) + len(rows) + len(held_out), config)
            labels = _labels_of(rows, config)
        rows, origins = _labelled(rows, labels, config, reader.bad, origins)
        held_out, _ = _labelled(held_out, labels, config, reader.bad, [])
    if config.task.kind == "regression" and len(rows) > 1 and len({float(row.values["score"]) for row in rows}) == 1:
        raise DataError(
            f"all rows have the score {rows[0].values['score']}, so there is nothing to learn; give rows of more scores"
        )
    good = len(rows) + len(held_out)
    refuse_too_many(reader.bad, len(reader.bad) + good, config)
    if not good and reader.bad:
        first = reader.bad[0].sentence()
        raise DataError(f"none of {len(reader.bad)} rows can be used; mend them; the first is {first}")
    if not good:
        raise DataError("there are no rows to use; give a file with at least a few dozen rows")
    return Found(rows, held_out, reader.bad, left_out, origins, labels, source, reader.format)


class _Reader:
    """Reads sources one after another, and keeps what is bad in them."""

    def __init__(self, config: RunConfig, recipe: Recipe) -> None:
        self.config = config
        self.recipe = recipe
        self.bad: list[BadRow] = []
        self.format = "columns"

    def embedded(self) -> tuple[list[Row], int]:
        """Return the embedded rows, and how many the recipe leaves out on purpose."""
        embedded = self.recipe.embedded
        if embedded is None:
            raise DataError(f"recipe '{self.recipe.name}' has no embedded data; give your rows with data.path=FILE")
        given = list(embedded.rows())
        rows = [
            Row(f"{embedded.asset}:{number}", dict(values))
            for number, values in enumerate(given, 1)
            if values is not None
        ]
        own = [self._values(row, {name: name for name in self.recipe.columns}) for row in rows]
        return self._good(own), len(given) - len(rows)

    def embedded_source(self) -> dict[str, Any]:
        embedded = self.recipe.embedded
        assert embedded is not None
        return {"name": embedded.name, "asset": embedded.asset, "licence": embedded.licence}

    def read(self, source: str, name: str | None) -> list[Row]:
        """Return the good rows of one source, which is called `name` where rows are named."""
        return self._good(self._renamed(read_rows(source, name=name)))

    def _good(self, rows: Iterable[Row | BadRow]) -> list[Row]:
        good: list[Row] = []
        for row in rows:
            (self.bad if isinstance(row, BadRow) else good).append(row)  # type: ignore[arg-type]
        return good

    def _renamed(self, found: Iterable[Row | BadRow]) -> Iterable[Row | BadRow]:
        mapping: dict[str, str] | None = None
        for row in found:
            if isinstance(row, BadRow):
                yield row
                continue
            if mapping is None:
                mapping = self._mapping(row)
            yield self._values(row, mapping)

    def _mapping(self, row: Row) -> dict[str, str]:
        """Choose the columns of a source by its first row."""
        config = self.config
        kept = {"data.weight_column": config.data.weight_column, "evaluate.group_by": config.evaluate.group_by}
        for key, name in kept.items():
            if name is not None and name not in row.values:
                raise DataError(f"{key}={name}: no such column in {row.where}, which has: {', '.join(row.values)}")
        if config.task.kind == "chat" and not config.data.columns:
            self.format = config.data.format if config.data.format != "auto" else detect_format(row)
            return {}
        try:
            return choose_columns(list(row.values), self.recipe.columns, config.data.columns)
        except DataError as error:
            raise DataError(f"{row.where}: {error}") from error

    def _values(self, row: Row, mapping: Mapping[str, str]) -> Row | BadRow:
        values: dict[str, Any] = {}
        kept = {name: name for name in (self.config.data.weight_column, self.config.evaluate.group_by) if name}
        if self.config.task.kind == "chat":
            renamed = {wanted: row.values.get(name) for wanted, name in mapping.items()}
            conversation = conversation_of(replace(row, values={**row.values, **renamed}), self.format)
            if isinstance(conversation, BadRow):
                return conversation
            values = dict(conversation.values)
            mapping = {}
        for wanted, name in {**mapping, **kept}.items():
            value = row.values.get(name)
            if value is None:
                return BadRow(row.where, name, "missing")
            if wanted == "label" and self.config.task.multi_label:
                if _several(value, self.config.task.label_separator) is None:
                    return BadRow(row.where, name, "neither labels in a text nor an array of them")
                values[wanted] = value
                continue
            if self.config.task.kind == "generation" and isinstance(value, dict | list):
                value = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            if not isinstance(value, str | int | float):
                return BadRow(row.where, name, f"an {'array' if isinstance(value, list) else 'object'}, not text")
            if not str(value).strip():
                return BadRow(row.where, name, "empty")
            values[wanted] = str(value).strip() if not isinstance(value, bool) else str(value).lower()
            if name == self.config.data.weight_column or (wanted == "score" and self.config.task.kind == "regression"):
                number = _number(values[wanted])
                if number is None or (name == self.config.data.weight_column and number < 0):
                    return BadRow(row.where, name, f"{shown(values[wanted])} is not a number that can be used here")
        return Row(row.where, values)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _several(value: Any, separator: str) -> list[str] | None:
    """Return the labels of a row that can have several: an array, or text with separators."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if isinstance(value, str):
        value = value.split(separator)
    if not isinstance(value, list) or not all(isinstance(one, str | int | float) for one in value):
        return None
    return [str(one).strip() for one in value if str(one).strip()]


def _given_labels(row: Row, config: RunConfig) -> list[str]:
    if config.task.multi_label:
        return _several(row.values["label"], config.task.label_separator) or []
    return [row.values["label"]]


def _labels_of(rows: Sequence[Row], config: RunConfig) -> tuple[str, ...]:
    """Return the labels that the rows have, sorted; of several spellings the most frequent one."""
    counts = Counter(label for row in rows for label in _given_labels(row, config))
    named = {given.casefold(): label for given, label in config.data.label_names.items()}
    spelled: dict[str, str] = {}
    for label, _ in counts.most_common():
        name = named.get(label.casefold(), label)
        spelled.setdefault(name.casefold(), name)
    for given, label in config.data.label_names.items():
        if label.casefold() not in spelled:
            held = ", ".join(sorted(spelled.values(), key=str.casefold))
            raise DataError(f"data.label_names.{given}={label}: no row has that label; there are: {held}")
    if len(spelled) > MAX_FOUND_LABELS or len(spelled) > max(20, len(rows) // 2):
        raise DataError(
            f"the rows have {len(spelled):,} different labels, which look like texts or numbers; choose another column "
            "with data.columns.label=<column>, name the labels with task.labels=..., or take a recipe for scores"
        )
    if len(spelled) < 2:
        held = f"the label '{next(iter(spelled.values()))}' alone" if spelled else "no label"
        raise DataError(f"the rows have {held}, so there is nothing to tell apart; give rows of at least two labels")
    return tuple(sorted(spelled.values(), key=str.casefold))


def _labelled(
    rows: Sequence[Row], labels: Sequence[str], config: RunConfig, bad: list[BadRow], origins: Sequence[int]
) -> tuple[list[Row], list[int]]:
    """Write labels as the task names them; a row with another one is bad."""
    names = {label.casefold(): label for label in labels}
    names |= {given.casefold(): names[label.casefold()] for given, label in config.data.label_names.items()}
    order = {label: place for place, label in enumerate(labels)}
    good: list[Row] = []
    kept: list[int] = []
    meant: dict[str, str] = {}
    for place, row in enumerate(rows):
        given = _given_labels(row, config)
        unknown = [label for label in given if label.casefold() not in names]
        if unknown:
            allowed = ", ".join(labels)
            if unknown[0] not in meant:  # one label can stand in very many rows
                near = difflib.get_close_matches(unknown[0].casefold(), names, n=1, cutoff=0.75)
                meant[unknown[0]] = names[near[0]] if near else "..."
            how = f"name it with data.label_names.{unknown[0]}={meant[unknown[0]]} or task.labels=..."
            bad.append(BadRow(row.where, "label", f"'{unknown[0]}' is not one of {allowed}; {how}"))
        else:
            named = sorted({names[label.casefold()] for label in given}, key=order.__getitem__)
            joined = f"{config.task.label_separator} ".join(named)
            good.append(Row(row.where, {**row.values, "label": joined}))
            kept += origins[place : place + 1]
    return good, kept


def refuse_too_many(bad: Sequence[BadRow], read: int, config: RunConfig) -> None:
    """Raise `DataError` if more of the rows that were read are bad than `data.*` allows."""
    if not bad:
        return
    if config.data.on_bad_row == "error":
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        mend = "save the file as UTF-8" if bad[0].reason.endswith("is not valid UTF-8") else "mend it"
        raise DataError(f"{bad[0].sentence()}{more}; {mend}, or leave bad rows out with data.on_bad_row=skip")
    if len(bad) > config.data.max_bad_fraction * read:
        raise DataError(
            f"{len(bad)} of {read} rows are bad ({len(bad) / read:.1%}), more than data.max_bad_fraction="
            f"{config.data.max_bad_fraction}; mend them or raise it; the first is {bad[0].sentence()}"
        )


def _described(sources: Sequence[str]) -> dict[str, Any]:
    described = [describe_source(source) for source in sources]
    return {"name": " + ".join(dict.fromkeys(one["name"] for one in described)), "sources": described}
