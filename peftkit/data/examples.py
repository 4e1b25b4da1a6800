"""One row as token ids, and what every encoder of rows offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from peftkit.data.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a position that is not trained."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row, ready for the model.

    Attributes:
        where: Place of the row in its source, such as `reviews.csv:17`.
        columns: The row's columns, by the recipe's names.
        expected: Text of the completion, label, labels or score; empty where nothing is answered.
        prompt_ids: Token ids that are only read: everything before the completion, or a head's or encoder's whole text.
        completion_ids: Token ids after them; for a model that writes, the last one ends the turn. Empty for a head.
        truncated: Whether text was cut to fit.
        trained: Which of `completion_ids` are trained; None for all of them.
        target: What a head is trained on: the label's number, a 0 or 1 for each label, or the score.
        weight: The row's weight in the loss.
    """

    where: str
    columns: Mapping[str, Any]
    expected: str
    prompt_ids: list[int]
    completion_ids: list[int]
    truncated: bool
    trained: Sequence[bool] | None = None
    target: int | float | tuple[float, ...] | None = None
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def trained_ids(self) -> list[int]:
        """The labels of `completion_ids`: the ids that are trained, `IGNORED` for the others."""
        if self.trained is None:
            return self.completion_ids
        return [token if kept else IGNORED for token, kept in zip(self.completion_ids, self.trained, strict=True)]

    @property
    def trained_tokens(self) -> int:
        """Number of positions that are trained."""
        return len(self.completion_ids) if self.trained is None else sum(self.trained)


class RowEncoder(Protocol):
    """Writes rows as a task asks them, for one kind of model."""

    tokenizer: PreTrainedTokenizerBase

    @property
    def template(self) -> str:
        """Text of the chat template; `plain` where none is used."""

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids of the tokens that end an answer."""

    def label_ids(self) -> dict[str, list[int]]:
        """Token ids of each allowed label that the model writes; empty where it writes none."""

    def required_columns(self) -> tuple[str, ...]:
        """The columns that are asked about; `predict` takes the first of them."""

    def split_text(self, columns: Mapping[str, Any]) -> str:
        """What tells a row from others: rows with like texts go into the same split."""

    def encode_rows(self, rows: Sequence[Row]) -> list[list[Example]]:
        """Encode rows for training, each as one or several examples. Raises `DataError`."""

    def prompt_ids(self, columns: Mapping[str, Any], *, room: int = 0) -> list[int]:
        """Encode a row without its answer, leaving room for so many tokens of it."""


_INTS: list[int] = []


def ids_shared(ids: Sequence[int]) -> list[int]:
    """Return equal ids that share their objects: 8 bytes a token in place of 36."""
    if ids and (most := max(ids)) >= len(_INTS):
        _INTS.extend(range(len(_INTS), most + 1))
    return list(map(_INTS.__getitem__, ids))
