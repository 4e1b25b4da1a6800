"""How a row becomes token ids for a model that writes its answer: prompt and completion, encoded apart and joined.

The prompt is encoded alone, exactly as `predict` does, so that training and use see the same ids whatever a tokenizer
would merge across the border. The completion ends with the token that ends the model's turn, and nothing after that
token is trained.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftkit.config import TaskConfig
from peftkit.data.examples import Example, ids_shared
from peftkit.data.rows import Row
from peftkit.data.template import Encoded, Message, Template
from peftkit.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

_COLUMN = re.compile(r"\{(\w+)\}")
PLAIN_TEMPLATE = "plain"
_ASKS = "Answer:"  # the end of a prompt where there is no template
_CHARACTERS = 3  # of a token; on average they have more, so that a longer text likely does not fit


def placeholders(template: str) -> tuple[str, ...]:
    """Return the columns that a template asks for, in their order."""
    return tuple(dict.fromkeys(_COLUMN.findall(template)))


class Encoder:
    """Writes a row as the task asks it, and encodes it with a model's tokenizer and chat template.

    Args:
        tokenizer: The base model's tokenizer; without a chat template, a plain one is used.
        task: What is asked and answered.
        max_length: Most tokens of prompt and completion together.
        template_kwargs: Named arguments of the chat template.

    Raises:
        ConfigError: The tokenizer has no end token, or its chat template refuses the conversation.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        task: TaskConfig,
        *,
        max_length: int,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.task = task
        self.max_length = max_length
        if tokenizer.eos_token_id is None:
            raise ConfigError(f"the tokenizer '{tokenizer.name_or_path}' has no end token, so no answer could end")
        self._written = Template(tokenizer, arguments=template_kwargs)
        starts = tokenizer.bos_token_id
        # A chat template writes the start token itself.
        self._start = [] if tokenizer.chat_template or starts is None else [starts]
        blank = dict.fromkeys(self.required_columns(), "")
        self._label_ids: dict[str, list[int]] = {}
        labels = list(task.labels or ())
        prompt = self._prompt_text(blank)
        self._label_ids = dict(
            zip(labels, self._completions([blank] * len(labels), [prompt] * len(labels), labels), strict=True)
        )

    @property
    def template(self) -> str:
        """Text of the chat template; `plain` where the tokenizer has none."""
        return self.tokenizer.chat_template or PLAIN_TEMPLATE

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids of the tokens that end an answer."""
        return frozenset(self._written.special_ids | {self.tokenizer.eos_token_id})

    def label_ids(self) -> dict[str, list[int]]:
        """Return each allowed label's token ids, its end token included."""
        return dict(self._label_ids)

    def required_columns(self) -> tuple[str, ...]:
        """Return the columns that the prompt asks for."""
        return placeholders(self.task.prompt)

    def split_text(self, columns: Mapping[str, Any]) -> str:
        """Return what tells a row from others: its columns in the prompt."""
        return "\n".join(columns[name] for name in self.required_columns())

    def encode_rows(self, rows: Sequence[Row]) -> list[list[Example]]:
        """Encode rows for training, each as one example, cutting the longest column of one that does not fit.

        Raises:
            DataError: A row does not fit even without its text.
        """
        columns = [row.values for row in rows]
        prompts = [self._prompt_text(one) for one in columns]
        expected = [_fill(self.task.completion, one) for one in columns]
        completions = self._completions(columns, prompts, expected)
        fitted = self._fit([row.where for row in rows], columns, prompts, [len(ids) for ids in completions])
        return [
            [Example(row.where, row.values, answer, ids_shared(prompt), ids_shared(completion), truncated)]
            for row, answer, completion, (prompt, truncated) in zip(rows, expected, completions, fitted, strict=True)
        ]

    def encode(self, where: str, columns: Mapping[str, str]) -> Example:
        """Encode one row, as `encode_rows` does."""
        return self.encode_rows([Row(where, dict(columns))])[0][0]

    def prompt_ids(self, columns: Mapping[str, str], *, room: int = 0) -> list[int]:
        """Encode a row's prompt for an answer of at most `room` tokens."""
        return self._fit(["the input"], [columns], [self._prompt_text(columns)], [room])[0][0]

    def _fit(
        self, wheres: Sequence[str], columns: Sequence[Mapping[str, str]], texts: Sequence[str], taken: Sequence[int]
    ) -> list[tuple[list[int], bool]]:
        """Return each row's prompt ids, and whether text was cut so that they leave `taken` tokens of room."""
        written = self._written
        room = [self.max_length - one - len(self._start) for one in taken]
        # Only rows that are cut need offsets; where most are, they are taken at once.
        offsets = sum(map(len, texts)) > _CHARACTERS * sum(room)
        encoded = written.encode_all(texts, offsets=offsets)
        fitted = [(self._start + one.ids, False) for one in encoded]
        long = [place for place, one in enumerate(encoded) if len(one.ids) > room[place]]
        if not long:
            return fitted
        names = self.required_columns()
        name = {p: max(names, key=lambda column: len(columns[p][column])) if names else "" for p in long}
        others = {p: tuple("" if column == name[p] else columns[p][column] for column in names) for p in long}
        blank = {one: self._prompt_text(dict(zip(names, one, strict=True))) for one in set(others.values())}
        without = {one: len(ids) for one, (ids, _) in zip(blank, written.encode_all([*blank.values()]), strict=True)}
        for place in long:
            if without[others[place]] > room[place]:
                raise DataError(
                    f"{wheres[place]}: the prompt needs {without[others[place]] + len(self._start)} tokens before any "
                    f"text and the answer {taken[place]}, which is more than train.max_length={self.max_length}; raise "
                    "train.max_length"
                )
        whole = [encoded[p] for p in long] if offsets else written.encode_all([texts[p] for p in long], offsets=True)
        cuts = {
            p: _Cut.inside(one, texts[p], columns[p][name[p]], len(one.ids) - room[p])
            or self._cut_alone(columns[p][name[p]], room[p] - without[others[p]])
            for p, one in zip(long, whole, strict=True)
        }
        while long:  # a cut can change how the border is encoded, by a token or two
            shorter = [self._prompt_text({**columns[p], name[p]: cuts[p].kept()}) for p in long]
            for place, one in zip(long, written.encode_all(shorter), strict=True):
                fitted[place] = (self._start + one.ids, True)
                cuts[place].last -= 1
            long = [place for place in long if len(fitted[place][0]) - len(self._start) > room[place]]
        return fitted

    def _cut_alone(self, text: str, keep: int) -> _Cut:
        """Cut a text to so many tokens of its own: one that a template changes, or writes several times."""
        encoded = self._written.encode_pieces([text], plain=True, offsets=True)[0]
        if encoded.offsets is None:
            raise ConfigError(
                f"the tokenizer '{self.tokenizer.name_or_path}' does not say which characters a token stands for, so "
                "no text can be cut; raise train.max_length until every row fits"
            )
        return _Cut(text, encoded.offsets, 0, 0, min(keep, len(encoded.ids)) - 1)

    def _messages(self, columns: Mapping[str, str]) -> list[Message]:
        system = self._written.veil(self.task.system_message)  # it may name labels that were found in the data
        user = {"role": "user", "content": _fill(self.task.prompt, self._written.veil(columns))}
        return [{"role": "system", "content": system}, user] if system else [user]

    def _prompt_text(self, columns: Mapping[str, str]) -> str:
        messages = self._messages(columns)
        if self.tokenizer.chat_template:
            return self._write(messages, answer=True)
        return "\n\n".join([*(message["content"] for message in messages), _ASKS])

    def _completions(
        self, columns: Sequence[Mapping[str, str]], prompts: Sequence[str], answers: Sequence[str]
    ) -> list[list[int]]:
        """Return each answer's token ids, the one that ends the turn last, as a model generates them after a prompt."""
        free = [place for place, answer in enumerate(answers) if answer not in self._label_ids]
        turns = [self._turn(columns[p], prompts[p], self._written.veil(answers[p])) for p in free]
        before = [prompts[p] if self.tokenizer.chat_template else _ASKS for p in free]
        found = dict(zip(free, self._written.encode_after(turns, before), strict=True))
        return [found[place] if place in found else self._label_ids[answer] for place, answer in enumerate(answers)]

    def _turn(self, columns: Mapping[str, str], prompt: str, answer: str) -> str:
        """Return an answer as the template writes it, up to the token that ends it."""
        if not self.tokenizer.chat_template:
            return f" {answer}{self.tokenizer.eos_token}"
        full = self._write([*self._messages(columns), {"role": "assistant", "content": answer}])
        # Templates that write an answer of the past differently from one to come leave only the answer itself.
        written = full[len(prompt) :] if full.startswith(prompt) else answer
        stop = written.rfind(answer.strip()) + len(answer.strip())
        return written[:stop] + self._written.end_of(written[stop:])

    def _write(self, messages: Sequence[Message], *, answer: bool = False) -> str:
        try:
            return self._written.write(messages, answer=answer)
        except ConfigError as error:
            raise ConfigError(
                f"{error}; a template without a system role needs the instruction in task.prompt and task.system=null"
            ) from error


@dataclass
class _Cut:
    """Where a text is cut: after its token `last`, of an encoding in which it begins at `start`, with token `first`."""

    text: str
    offsets: Encoding
    start: int
    first: int
    last: int

    @classmethod
    def inside(cls, encoded: Encoded, prompt: str, text: str, surplus: int) -> _Cut | None:
        """Cut so many tokens off a text inside an encoded prompt; None where it does not stand there once as it is."""
        if encoded.offsets is None or not text or prompt.count(text) != 1:
            return None
        start = prompt.index(text)
        first, last = (encoded.offsets.char_to_token(place) for place in (start, start + len(text) - 1))
        return None if first is None or last is None else cls(text, encoded.offsets, start, first, last - surplus)

    def kept(self) -> str:
        """Return the text up to there."""
        span = self.offsets.token_to_chars(self.last) if self.last >= self.first else None
        return self.text[: span[1] - self.start] if span else ""


def _fill(template: str, columns: Mapping[str, str]) -> str:
    """Put columns into a template; nothing but `{name}` is special, so rows cannot smuggle in formatting."""

    def column(match: re.Match[str]) -> str:
        if match[1] not in columns:
            raise ConfigError(
                f"'{{{match[1]}}}' in task.prompt or task.completion is not a column; there are: {', '.join(columns)}"
            )
        return columns[match[1]]

    return _COLUMN.sub(column, template)
