"""How plain text becomes token ids for continued pre-training: each document cut into pieces, all of it trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftkit.data.encode import PLAIN_TEMPLATE
from peftkit.data.examples import Example, ids_shared
from peftkit.data.rows import Row
from peftkit.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST_TOKENS = 8
"""A rest of a document with fewer tokens is left out: it costs a sequence, and its tokens have next to no context."""


class PlainEncoder:
    """Encodes documents as they are, without a chat template.

    Control tokens that a document spells out stay text. Every piece begins with the start token where the tokenizer
    puts one before a text, and the last piece of a document ends with the end token.

    Args:
        tokenizer: The base model's tokenizer.
        max_length: Most tokens of a piece.

    Raises:
        ConfigError: The tokenizer has no end token, or a piece would hold fewer than `LEAST_TOKENS` tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        if tokenizer.eos_token_id is None:
            raise ConfigError(f"the tokenizer '{tokenizer.name_or_path}' has no end token, so no document could end")
        self.tokenizer = tokenizer
        starts = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
        self._start = [int(tokenizer.bos_token_id)] if starts else []
        self._room = max_length - len(self._start)
        if self._room < LEAST_TOKENS:
            raise ConfigError(f"train.max_length={max_length} is too short for plain text; take at least 128")

    @property
    def template(self) -> str:
        """`plain`: no chat template is used."""
        return PLAIN_TEMPLATE

    @property
    def end_ids(self) -> frozenset[int]:
        """Id of the token that ends a document."""
        return frozenset({int(self.tokenizer.eos_token_id)})

    def label_ids(self) -> dict[str, list[int]]:
        """Return nothing: plain text has no labels."""
        return {}

    def required_columns(self) -> tuple[str, ...]:
        """Return the column of texts."""
        return ("text",)

    def split_text(self, columns: Mapping[str, Any]) -> str:
        """Return the document: all of its pieces go into one split."""
        return str(columns["text"])

    def encode_rows(self, rows: Sequence[Row]) -> list[list[Example]]:
        """Encode documents in one batch, one example a piece; the last is marked if a short rest was left out."""
        texts = self._encode([row.values["text"] for row in rows])
        return [self._pieces(row, [*ids, self.tokenizer.eos_token_id]) for row, ids in zip(rows, texts, strict=True)]

    def prompt_ids(self, columns: Mapping[str, Any], *, room: int = 0) -> list[int]:
        """Encode a text to be continued; of one that is longer than the model reads, its end."""
        ids = self._encode([columns["text"]])[0]
        limit = max(1, self.tokenizer.model_max_length - room - len(self._start))
        return self._start + ids[max(0, len(ids) - limit) :]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)
        return list(encoded["input_ids"])

    def _pieces(self, row: Row, ids: list[int]) -> list[Example]:
        starts = range(0, len(ids), self._room)
        short = len(starts) > 1 and len(ids) - starts[-1] < LEAST_TOKENS
        kept = starts[:-1] if short else starts
        return [
            Example(
                row.where,
                row.values,
                "",
                ids_shared(self._start),
                ids_shared(ids[start : start + self._room]),
                truncated=short and start == kept[-1],
            )
            for start in kept
        ]
