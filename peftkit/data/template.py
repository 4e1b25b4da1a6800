"""A tokenizer's chat template: conversations as text, and that text as token ids.

Strings of a row are veiled before the template sees them, so that a control token written in a message stays text: only
what the template itself writes becomes a control token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from peftkit.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]

_OPEN, _CLOSE = "\ue000", "\ue001"  # private-use characters, which no template writes
_VEILED = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


class Encoded(NamedTuple):
    """A text as token ids, and which characters they are; None where that was not asked, or is not known."""

    ids: list[int]
    offsets: Encoding | None


class Template:
    """Writes conversations with a chat template, and encodes what it wrote.

    Args:
        tokenizer: The base model's tokenizer.
        text: The template; None takes the tokenizer's own.
        arguments: Named arguments of the template.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, text: str | None = None, arguments: Mapping[str, Any] | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._text = text
        self._arguments = dict(arguments or {})
        added = tokenizer.added_tokens_decoder
        self.special_ids = {place for place, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        tokens = tokenizer.convert_ids_to_tokens(sorted(self.special_ids))
        # The veil's own first character is veiled too, so that no row can forge a mark.
        self._controls = [*sorted(tokens, key=len, reverse=True), _OPEN]
        self._control = re.compile("|".join(map(re.escape, self._controls)))
        self._spellings: dict[int, list[int]] = {}

    def veil(self, value: Any) -> Any:
        """Mark control tokens in every string of a value, so that `encode` takes them for plain text."""
        if isinstance(value, str):
            return self._control.sub(lambda found: f"{_OPEN}{self._controls.index(found[0])}{_CLOSE}", value)
        if isinstance(value, Mapping):
            return {self.veil(name): self.veil(one) for name, one in value.items()}
        return [self.veil(one) for one in value] if isinstance(value, list) else value

    def write(self, messages: Sequence[Message], tools: Any = None, *, answer: bool = False) -> str:
        """Write a conversation.

        Args:
            messages: Its turns, veiled.
            tools: Descriptions of the tools that the model may call, veiled.
            answer: Whether the assistant's next turn is begun at the end.

        Raises:
            ConfigError: The template refuses it.
        """
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=tools,
                chat_template=self._text,
                tokenize=False,
                add_generation_prompt=answer,
                **self._arguments,
            )
        except Exception as error:  # a template is a program of the model's author and may fail in any way
            name = self._tokenizer.name_or_path
            raise ConfigError(f"the chat template of '{name}' refuses this conversation: {error}") from error
        return str(text)

    def encode(self, text: str, before: str = "") -> list[int]:
        """Encode what was written, as it is encoded when it follows another text; see `encode_after`."""
        return self.encode_after([text], [before])[0]

    def encode_after(self, texts: Sequence[str], before: Sequence[str]) -> list[list[int]]:
        """Encode texts that were written, each as it is encoded when it follows another one, in one batch.

        What a tokenizer does at the start of a text, or eats after a control token, depends on what stands before; it
        is encoded along from its last control token on. Where text and ids across the border would merge into one
        token, the text is encoded alone: a model that generates it starts with a token of its own.
        """
        begun = [self._from_last_control(one) for one in before]
        heads = list(dict.fromkeys(begun))
        encoded = [one.ids for one in self.encode_all([*heads, *map(str.__add__, begun, texts)])]
        head_of = dict(zip(heads, encoded, strict=False))
        pairs = [(head_of[head], ids) for head, ids in zip(begun, encoded[len(heads) :], strict=True)]
        merged = [place for place, (head, ids) in enumerate(pairs) if ids[: len(head)] != head]
        alone = dict(zip(merged, self.encode_all([texts[place] for place in merged]), strict=True))
        return [alone[place].ids if place in alone else ids[len(head) :] for place, (head, ids) in enumerate(pairs)]

    def encode_all(self, texts: Sequence[str], *, offsets: bool = False) -> list[Encoded]:
        """Encode texts that were written, in one batch; `offsets` as in `encode_pieces`, but for texts with a veil."""
        split = [_VEILED.split(text) for text in texts]  # every second piece is the number between two marks
        encoded = iter(self.encode_pieces([piece for pieces in split for piece in pieces[::2]], offsets=offsets))
        whole: list[Encoded] = []
        for pieces in split:
            one = next(encoded)
            if len(pieces) > 1:
                ids = list(one.ids)
                for number in pieces[1::2]:
                    ids += self._spelled(int(number))
                    ids += next(encoded).ids
                one = Encoded(ids, None)
            whole.append(one)
        return whole

    def encode_pieces(self, texts: Sequence[str], *, plain: bool = False, offsets: bool = False) -> list[Encoded]:
        """Encode texts without veiled tokens in one batch.

        Args:
            texts: What to encode.
            plain: Whether control tokens are taken for text.
            offsets: Whether to say which characters the tokens are, if the tokenizer knows: that takes longer.
        """
        if not texts:
            return []
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            slow = self._tokenizer(list(texts), add_special_tokens=False, split_special_tokens=plain, verbose=False)
            return [Encoded(ids, None) for ids in slow["input_ids"]]
        # What a call of the tokenizer does, without a dictionary for each text, and without offsets that nobody needs.
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = plain
        encode = backend.encode_batch if offsets else backend.encode_batch_fast
        return [Encoded(one.ids, one if offsets else None) for one in encode(list(texts), add_special_tokens=False)]

    def turn_of(self, written: str) -> str:
        """Cut what was written of an answer after the control token that ends it; it gets an end if it has none."""
        controls = list(self._control.finditer(written))
        if controls and not written[controls[-1].end() :].strip():
            return written[: controls[-1].end()]
        return written.rstrip() + str(self._tokenizer.eos_token)

    def end_of(self, rest: str) -> str:
        """Return what ends an answer, of what was written after it: up to the first control token, else an end token.

        What stands between is kept: a model has to write it before it can end.
        """
        end = self._control.search(rest)
        return rest[: end.end()] if end else str(self._tokenizer.eos_token)

    def _from_last_control(self, text: str) -> str:
        controls = list(self._control.finditer(text))
        return text[controls[-1].start() :] if controls else text

    def _spelled(self, number: int) -> list[int]:
        if number not in self._spellings:
            self._spellings[number] = self.encode_pieces([self._controls[number]], plain=True)[0].ids
        return self._spellings[number]
