"""How a row becomes token ids and a target for a model that gives labels or a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftkit.config import TaskConfig
from peftkit.data.encode import PLAIN_TEMPLATE, placeholders
from peftkit.data.examples import Example, ids_shared
from peftkit.data.framed import FramedTexts
from peftkit.data.rows import Row
from peftkit.data.score_scale import to_standard

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class HeadEncoder:
    """Writes a row's text as the base model was trained to read texts: no chat template, no instruction.

    Args:
        tokenizer: The base model's tokenizer.
        task: What is asked, and the labels or scores that are learned.
        max_length: Most tokens of a text, special ones included.

    Raises:
        ConfigError: `max_length` leaves no room for text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, task: TaskConfig, *, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.task = task
        self._texts = FramedTexts(tokenizer, task.prompt, max_length=max_length)
        self._numbers = {label: number for number, label in enumerate(task.labels or ())}

    @property
    def template(self) -> str:
        """Always `plain`."""
        return PLAIN_TEMPLATE

    @property
    def end_ids(self) -> frozenset[int]:
        """Nothing is written, so nothing ends it."""
        return frozenset()

    def label_ids(self) -> dict[str, list[int]]:
        """Nothing is written, so there is none."""
        return {}

    def required_columns(self) -> tuple[str, ...]:
        """Return the columns of the text."""
        return placeholders(self.task.prompt)

    def split_text(self, columns: Mapping[str, Any]) -> str:
        """Return what tells a row from others: the columns of its text."""
        return "\n".join(columns[name] for name in self.required_columns())

    def encode_rows(self, rows: Sequence[Row]) -> list[list[Example]]:
        """Encode rows for training, each as one example."""
        answer = "score" if self.task.kind == "regression" else "label"
        encoded = self._texts.encode(row.values for row in rows)
        return [
            [
                Example(
                    where=row.where,
                    columns=row.values,
                    expected=row.values[answer],
                    prompt_ids=ids_shared(ids),
                    completion_ids=[],
                    truncated=cut,
                    target=self.target(row.values[answer]),
                )
            ]
            for row, (ids, cut) in zip(rows, encoded, strict=True)
        ]

    def prompt_ids(self, columns: Mapping[str, Any], *, room: int = 0) -> list[int]:
        """Encode a row's text; `room` is for models that write."""
        return self._texts.encode([columns])[0][0]

    def target(self, expected: str) -> int | float | tuple[float, ...]:
        """Return what the head learns: a label's number, a 0 or 1 for each label, or a score in standard units."""
        if self.task.kind == "regression":
            return to_standard(float(expected), self.task)
        if not self.task.multi_label:
            return self._numbers[expected]
        given = {label.strip() for label in expected.split(self.task.label_separator)}
        return tuple(float(label in given) for label in self._numbers)
