"""How a row becomes token ids for a model that reads a text with one part and writes another with the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftkit.config import TaskConfig
from peftkit.data.encode import PLAIN_TEMPLATE, _fill, placeholders
from peftkit.data.examples import Example, ids_shared
from peftkit.data.framed import FramedTexts
from peftkit.data.rows import Row
from peftkit.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Seq2SeqEncoder:
    """Writes a row as source and target, each in the tokenizer's own way; `task.system` stands before the source.

    Args:
        tokenizer: The base model's tokenizer; a translator's knows its two languages.
        task: What is asked and answered.
        max_length: Most tokens of the source, and of the target.
        max_new_tokens: Longest answer, in tokens.

    Raises:
        ConfigError: `max_length` leaves no room for text, or a label is longer than an answer may be.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, task: TaskConfig, *, max_length: int, max_new_tokens: int
    ) -> None:
        self.tokenizer = tokenizer
        self.task = task
        self._sources = FramedTexts(tokenizer, _source_template(task), max_length=max_length)
        self._targets = FramedTexts(tokenizer, task.completion, max_length=max_length, target=True)
        labels = task.labels or ()
        written = FramedTexts(tokenizer, "{label}", max_length=max_length, target=True)
        encoded = written.encode({"label": label} for label in labels)
        self._label_ids = {label: ids for label, (ids, _) in zip(labels, encoded, strict=True)}
        for label, ids in self._label_ids.items():
            if len(ids) > max_new_tokens:
                raise ConfigError(
                    f"evaluate.max_new_tokens={max_new_tokens} is less than the {len(ids)} tokens of the label "
                    f"'{label}'; raise it"
                )

    @property
    def template(self) -> str:
        """Always `plain`."""
        return PLAIN_TEMPLATE

    @property
    def end_ids(self) -> frozenset[int]:
        """Id of the token that ends an answer."""
        return frozenset([self.tokenizer.eos_token_id])

    def label_ids(self) -> dict[str, list[int]]:
        """Return each allowed label's token ids, special ones included."""
        return dict(self._label_ids)

    def required_columns(self) -> tuple[str, ...]:
        """Return the columns of the source."""
        return placeholders(self.task.prompt)

    def split_text(self, columns: Mapping[str, Any]) -> str:
        """Return what tells a row from others: the columns of its source."""
        return "\n".join(columns[name] for name in self.required_columns())

    def encode_rows(self, rows: Sequence[Row]) -> list[list[Example]]:
        """Encode rows for training, each as one example; one whose source or target was cut says so."""
        sources = self._sources.encode(row.values for row in rows)
        targets = self._targets.encode(row.values for row in rows)
        return [
            [
                Example(
                    where=row.where,
                    columns=row.values,
                    expected=_fill(self.task.completion, row.values),
                    prompt_ids=ids_shared(source),
                    completion_ids=ids_shared(target),
                    truncated=source_cut or target_cut,
                )
            ]
            for row, (source, source_cut), (target, target_cut) in zip(rows, sources, targets, strict=True)
        ]

    def prompt_ids(self, columns: Mapping[str, Any], *, room: int = 0) -> list[int]:
        """Encode a row's source; `room` is for models that write on in the same sequence."""
        return self._sources.encode([columns])[0][0]


def _source_template(task: TaskConfig) -> str:
    """Return what is read, such as `summarize: {text}`."""
    return f"{task.system_message.rstrip()} {task.prompt}" if task.system_message else task.prompt
