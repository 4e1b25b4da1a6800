"""Texts between the special tokens that a tokenizer writes itself: `[CLS] text [SEP]`, `text </s>`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftkit.data.encode import _fill
from peftkit.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_AT_ONCE = 2048


class FramedTexts:
    """Fills a template with a row's columns, encodes it, and cuts it to fit.

    Control tokens count where the template writes them (`{premise} [SEP] {hypothesis}`), and are plain text in a row.

    Args:
        tokenizer: The base model's tokenizer.
        template: Text with `{column}` in it.
        max_length: Most tokens, special ones included; the model's own limit holds too.
        target: Whether these are the texts that an encoder-decoder model writes, not those that it reads.

    Raises:
        ConfigError: Not even one token of text would fit.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: str, *, max_length: int, target: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._argument = "text_target" if target else "text"
        controls = map(re.escape, sorted(tokenizer.all_special_tokens, key=len, reverse=True))
        self._pieces = re.split(f"({'|'.join(controls)})", template)  # every second piece is a control token
        self._before, self._after = frame(tokenizer, target=target)
        taken = len(self._before) + len(self._after) + len(self._pieces) // 2
        self._room = min(max_length, tokenizer.model_max_length) - taken
        if self._room < 1:
            raise ConfigError(
                f"train.max_length={max_length} leaves no room for text between the {taken} special tokens of "
                f"'{tokenizer.name_or_path}'; raise train.max_length"
            )

    def encode(self, rows: Iterable[Mapping[str, Any]]) -> list[tuple[list[int], bool]]:
        """Return each row's token ids, and whether its longest piece of text had to be cut."""
        columns = list(rows)
        encoded: list[tuple[list[int], bool]] = []
        for start in range(0, len(columns), _AT_ONCE):
            encoded += self._encode(columns[start : start + _AT_ONCE])
        return encoded

    def _encode(self, rows: Sequence[Mapping[str, Any]]) -> list[tuple[list[int], bool]]:
        pieces: list[list[list[int]]] = []
        for number, piece in enumerate(self._pieces):
            if number % 2:
                pieces.append([[self._tokenizer.convert_tokens_to_ids(piece)]] * len(rows))
            else:
                pieces.append(_plain_ids(self._tokenizer, self._argument, [_fill(piece, row) for row in rows]))
        return [self._join([list(ids) for ids in row]) for row in zip(*pieces, strict=True)]

    def _join(self, pieces: list[list[int]]) -> tuple[list[int], bool]:
        texts = pieces[::2]
        over = sum(map(len, texts)) - self._room
        for _ in range(over):
            max(texts, key=len).pop()
        return [*self._before, *(token for piece in pieces for token in piece), *self._after], over > 0


def frame(tokenizer: PreTrainedTokenizerBase, *, target: bool = False) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer writes before and after a text that a model reads, or that it writes."""
    argument = "text_target" if target else "text"
    inner = _plain_ids(tokenizer, argument, ["a"])[0]
    whole = tokenizer(**{argument: ["a"]})["input_ids"][0]
    start = next(place for place in range(len(whole)) if whole[place : place + len(inner)] == inner)
    return whole[:start], whole[start + len(inner) :]


def _plain_ids(tokenizer: PreTrainedTokenizerBase, argument: str, texts: list[str]) -> list[list[int]]:
    """Encode texts with nothing around them, control tokens in them as plain text."""
    encoded: list[list[int]] = tokenizer(
        **{argument: texts},
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
    )["input_ids"]
    controls = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for number, ids in enumerate(encoded):
        if not controls.isdisjoint(ids):  # a unigram vocabulary holds control tokens as words, and finds them in texts
            parts = _cut_controls(tokenizer, texts[number])
            encoded[number] = [token for part in _plain_ids(tokenizer, argument, parts) for token in part]
    return encoded


def _cut_controls(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Cut a text behind the first character of each control token in it."""
    controls = "|".join(re.escape(token) for token in tokenizer.all_special_tokens)
    places = [found.start() + 1 for found in re.finditer(controls, text)]
    return [text[start:end] for start, end in itertools.pairwise([0, *places, len(text)])]
