"""How a row becomes token ids: prompt and completion, encoded apart and joined.

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
from peftkit.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_COLUMN = re.compile(r"\{(\w+)\}")
_VEILED = re.compile("\ue000([0-9]+)\ue001")  # private-use characters, which no template writes
PLAIN_TEMPLATE = "plain"


@dataclass(frozen=True, slots=True)
class Example:
    """One row, ready for the model.

    Attributes:
        where: Place of the row in its source, such as `reviews.csv:17`.
        columns: The row's columns, by the recipe's names.
        expected: Text of the completion.
        prompt_ids: Token ids of everything before the completion.
        completion_ids: Token ids that are trained; the last one ends the turn.
        truncated: Whether text was cut to fit.
    """

    where: str
    columns: Mapping[str, str]
    expected: str
    prompt_ids: list[int]
    completion_ids: list[int]
    truncated: bool

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


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
        self._template_kwargs = dict(template_kwargs or {})
        added = tokenizer.added_tokens_decoder
        self._specials = {place for place, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        self._controls = sorted(tokenizer.convert_ids_to_tokens(sorted(self._specials)), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, self._controls)))
        if tokenizer.eos_token_id is None:
            raise ConfigError(f"the tokenizer '{tokenizer.name_or_path}' has no end token, so no answer could end")
        blank = dict.fromkeys(self.required_columns(), "")
        self._label_ids = {label: self._completion_ids(blank, label) for label in task.labels or ()}

    @property
    def template(self) -> str:
        """Text of the chat template; `plain` where the tokenizer has none."""
        return self.tokenizer.chat_template or PLAIN_TEMPLATE

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids of the tokens that end an answer."""
        return frozenset(self._specials | {self.tokenizer.eos_token_id})

    def label_ids(self) -> dict[str, list[int]]:
        """Return each allowed label's token ids, its end token included."""
        return dict(self._label_ids)

    def required_columns(self) -> tuple[str, ...]:
        """Return the columns that the prompt asks for."""
        return placeholders(self.task.prompt)

    def encode(self, where: str, columns: Mapping[str, str]) -> Example:
        """Encode a row for training, cutting its longest column if it does not fit.

        Raises:
            DataError: The row does not fit even without its text.
        """
        expected = _fill(self.task.completion, columns)
        completion = self._label_ids.get(expected) or self._completion_ids(columns, expected)
        prompt, truncated = self._fit(where, columns, len(completion))
        return Example(where, columns, expected, prompt, completion, truncated)

    def prompt_ids(self, columns: Mapping[str, str], *, room: int = 0) -> list[int]:
        """Encode a row's prompt for an answer of at most `room` tokens."""
        return self._fit("the input", columns, room)[0]

    def _prompt(self, columns: Mapping[str, str]) -> list[int]:
        ids = self._encode(self._prompt_text(columns))
        starts = self.tokenizer.bos_token_id
        # A chat template writes the start token itself.
        return ids if self.tokenizer.chat_template or starts is None else [starts, *ids]

    def _fit(self, where: str, columns: Mapping[str, str], taken: int) -> tuple[list[int], bool]:
        ids = self._prompt(columns)
        if len(ids) + taken <= self.max_length:
            return ids, False
        names = self.required_columns()
        name = max(names, key=lambda column: len(columns[column])) if names else None
        without = len(self._prompt({**columns, name: ""})) if name else len(ids)
        if without + taken > self.max_length or name is None:
            raise DataError(
                f"{where}: the prompt needs {without} tokens before any text and the answer {taken}, "
                f"which is more than train.max_length={self.max_length}; raise train.max_length"
            )
        text = columns[name]
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        keep = min(self.max_length - taken - without, len(offsets))
        while keep > 0:  # a cut can change how the border is encoded, by a token or two
            ids = self._prompt({**columns, name: text[: offsets[keep - 1][1]]})
            if len(ids) + taken <= self.max_length:
                return ids, True
            keep -= 1
        return self._prompt({**columns, name: ""}), True

    def _messages(self, columns: Mapping[str, str]) -> list[dict[str, str]]:
        labels = ", ".join(self.task.labels or ())
        system = self.task.system and self.task.system.replace("{labels}", labels)
        user = {"role": "user", "content": _fill(self.task.prompt, self._veil_all(columns))}
        return [{"role": "system", "content": system}, user] if system else [user]

    def _prompt_text(self, columns: Mapping[str, str]) -> str:
        messages = self._messages(columns)
        if self.tokenizer.chat_template:
            return self._apply(messages, add_generation_prompt=True)
        return "\n\n".join(message["content"] for message in messages) + "\n\nAnswer:"

    def _completion_ids(self, columns: Mapping[str, str], answer: str) -> list[int]:
        answer = self._veil(answer)
        if not self.tokenizer.chat_template:
            return [*self._encode(f" {answer}"), self.tokenizer.eos_token_id]
        messages = self._messages(columns)
        prompt = self._apply(messages, add_generation_prompt=True)
        full = self._apply([*messages, {"role": "assistant", "content": answer}], add_generation_prompt=False)
        # Templates that write an answer of the past differently from one to come leave only the answer itself.
        written = full[len(prompt) :] if full.startswith(prompt) else answer
        stop = written.rfind(answer.strip()) + len(answer.strip())
        ids, rest = self._encode(written[:stop]), self._encode(written[stop:])
        end = next((place for place, token in enumerate(rest) if token in self._specials), None)
        return [*ids, self.tokenizer.eos_token_id] if end is None else [*ids, *rest[: end + 1]]

    def _apply(self, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=add_generation_prompt, **self._template_kwargs
            )
        except Exception as error:  # a template is a program of the model's author and may fail in any way
            raise ConfigError(
                f"the chat template of '{self.tokenizer.name_or_path}' refuses this conversation: {error}; "
                "a template without a system role needs the instruction in task.prompt and task.system=null"
            ) from error
        return str(text)

    def _veil_all(self, columns: Mapping[str, str]) -> dict[str, str]:
        return {name: self._veil(text) for name, text in columns.items()}

    def _veil(self, text: str) -> str:
        """Mark control tokens that stand in a row's own text, so that `_encode` takes them for plain text."""
        return self._control.sub(lambda found: f"\ue000{self._controls.index(found[0])}\ue001", text)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for number, piece in enumerate(_VEILED.split(text)):
            veiled = bool(number % 2)  # every second piece is the number between two marks
            written = self._controls[int(piece)] if veiled else piece
            ids += self.tokenizer(written, add_special_tokens=False, split_special_tokens=veiled)["input_ids"]
        return ids


def _fill(template: str, columns: Mapping[str, str]) -> str:
    """Put columns into a template; nothing but `{name}` is special, so rows cannot smuggle in formatting."""

    def column(match: re.Match[str]) -> str:
        if match[1] not in columns:
            raise ConfigError(
                f"'{{{match[1]}}}' in task.prompt or task.completion is not a column; there are: {', '.join(columns)}"
            )
        return columns[match[1]]

    return _COLUMN.sub(column, template)
