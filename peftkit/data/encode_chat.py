"""How a conversation becomes token ids: the assistant's turns are trained, and everything else is only read.

A turn is trained as the model will generate it: after exactly the prompt that its chat template writes for that turn.
Most templates only ever add to what they wrote, so that one sequence holds all turns of a conversation. Some rewrite
what came before (thoughts of the past are dropped, a system prompt moves to the last question); there the conversation
becomes several sequences, and no turn is learned after a prompt that the model will never see. That costs tokens, where
training only the turns that fit one sequence would leave out most of the conversation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from peftkit.config import TaskConfig
from peftkit.data.encode import PLAIN_TEMPLATE
from peftkit.data.examples import Example, ids_shared
from peftkit.data.rows import Row
from peftkit.data.template import Message, Template
from peftkit.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_CHAT = (
    "{{ bos_token }}{% if tools %}{{ raise_exception('it has no place for tools') }}{% endif %}"
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% elif message.role == 'user' %}User: {{ message.content }}\n\n"
    "{% elif message.role == 'assistant' and not message.tool_calls %}"
    "Assistant: {{ message.content }}{{ eos_token }}\n\n"
    "{% else %}{{ raise_exception('it has no place for tools') }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""The template of models that have none."""

_MARK = "\ue002"  # a private-use character, to find where a template puts an answer
_ASKED: Message = {"role": "user", "content": "?"}
_CALL = {"id": "call00001", "type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}
_ANSWERS: Sequence[Message] = (
    {"role": "assistant", "content": "It is."},
    {"role": "assistant", "content": "It is.", "reasoning_content": "Is it?", "thinking": "Is it?"},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
)


@dataclass
class _Sequence:
    """Turns that one sequence holds: what was written so far, its ids, and which of them are trained."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    trained: list[bool] = field(default_factory=list)

    def add(self, ids: Sequence[int], *, trained: bool) -> None:
        self.ids += ids
        self.trained += [trained] * len(ids)


class ChatEncoder:
    """Writes conversations with a model's chat template, and encodes them.

    Args:
        tokenizer: The base model's tokenizer; without a chat template, a plain one is used.
        task: Its `system` stands before conversations that have no system prompt of their own.
        max_length: Most tokens of a sequence. Turns that end beyond it are left out.
        template_kwargs: Named arguments of the chat template.

    Raises:
        ConfigError: The tokenizer has no end token, or its chat template takes no system prompt or no question.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        task: TaskConfig,
        *,
        max_length: int,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise ConfigError(f"the tokenizer '{tokenizer.name_or_path}' has no end token, so no answer could end")
        self.tokenizer = tokenizer
        self.task = task
        self.max_length = max_length
        self._written = Template(tokenizer, None if tokenizer.chat_template else PLAIN_CHAT, template_kwargs)
        try:
            self._written.write(self._veiled([_ASKED]), answer=True)
        except ConfigError as error:
            advice = "leave task.system out" if task.system else "check model.chat_template_kwargs"
            raise ConfigError(f"{error}; {advice}") from error
        self._end_ids = self._find_end_ids()

    @property
    def template(self) -> str:
        """Text of the chat template; `plain` where the tokenizer has none."""
        return self.tokenizer.chat_template or PLAIN_TEMPLATE

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids of the tokens that end a turn: control tokens that the template does not write inside one."""
        return self._end_ids

    def label_ids(self) -> dict[str, list[int]]:
        """Return nothing: a chat has no labels."""
        return {}

    def required_columns(self) -> tuple[str, ...]:
        """Return the column of conversations."""
        return ("messages",)

    def split_text(self, columns: Mapping[str, Any]) -> str:
        """Return what all turns say; system prompts, which many conversations share, tell none from others."""
        return "\n".join(turn["content"] for turn in columns["messages"] if turn["role"] != "system")

    def encode_rows(self, rows: Sequence[Row]) -> list[list[Example]]:
        """Encode conversations, each as one example, or as several where the template rewrites earlier turns.

        Raises:
            DataError: The template refuses a conversation, or not even its first answer fits.
        """
        return [self._encode_row(row) for row in rows]

    def prompt_ids(self, columns: Mapping[str, Any], *, room: int = 0) -> list[int]:
        """Encode a conversation, or a text as its only message, up to where the model answers.

        Raises:
            DataError: It leaves no room of so many tokens in what the model can read, or the template refuses it.
        """
        messages = columns["messages"]
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        try:
            text = self._written.write(self._veiled(messages), self._tools(columns), answer=True)
        except ConfigError as error:
            raise DataError(str(error)) from error
        ids = self._written.encode(text)
        if len(ids) + room > self.tokenizer.model_max_length:
            raise DataError(
                f"the input needs {len(ids)} tokens and its answer up to {room}, more than the "
                f"{self.tokenizer.model_max_length} that '{self.tokenizer.name_or_path}' reads; give a shorter one"
            )
        return ids

    def _encode_row(self, row: Row) -> list[Example]:
        try:
            sequences, left_out = self._sequences(row)
        except ConfigError as error:
            raise DataError(f"{row.where}: {error}; mend the row or leave it out") from error
        if not sequences:
            raise DataError(
                f"{row.where}: the conversation needs {min(left_out)} tokens to the end of an answer, "
                f"more than train.max_length={self.max_length}; raise train.max_length, or leave the row out"
            )
        examples = [_example(row, sequence) for sequence in sequences]
        return [*examples[:-1], replace(examples[-1], truncated=bool(left_out))]

    def _sequences(self, row: Row) -> tuple[list[_Sequence], list[int]]:
        """Return the sequences that hold a row's trained turns, and the lengths at which others would not fit."""
        messages, tools = self._veiled(row.values["messages"]), self._tools(row.values)
        sequences: list[_Sequence] = []
        left_out: list[int] = []
        for place, turn in enumerate(messages):
            if turn["role"] != "assistant" or turn.get("weight") == 0:
                continue
            prompt = self._written.write(messages[:place], tools, answer=True)
            answer = self._answer(prompt, messages[: place + 1], tools)
            goes_on = bool(sequences) and prompt.startswith(sequences[-1].text)
            sequence = sequences[-1] if goes_on else _Sequence()
            read = self._written.encode(prompt[len(sequence.text) :], sequence.text)
            said = self._written.encode(answer, prompt)
            length = len(sequence.ids) + len(read) + len(said)
            if length > self.max_length:
                left_out.append(length)
                continue
            sequence.add(read, trained=False)
            sequence.add(said, trained=True)
            sequence.text = prompt + answer
            if not goes_on:
                sequences.append(sequence)
        return sequences, left_out

    def _answer(self, prompt: str, messages: Sequence[Message], tools: Any) -> str:
        """Return what the model is to generate after a prompt: the last turn as its template writes it, and its end."""
        full = self._written.write(messages, tools)
        if full.startswith(prompt):
            return self._written.turn_of(full[len(prompt) :])
        # The template writes a turn of the past in another way than it begins one to come. Everything up to the
        # answer's place is the same for every answer, so an answer of one character shows how far that goes.
        head = self._written.write([*messages[:-1], {"role": "assistant", "content": _MARK}], tools).partition(_MARK)[0]
        if not (prompt.startswith(head) and full.startswith(head)):
            raise ConfigError(
                f"the chat template of '{self.tokenizer.name_or_path}' does not write turn {len(messages)} where it "
                "asks for one; check model.chat_template_kwargs, such as enable_thinking"
            )
        begun, content = prompt[len(head) :].strip(), messages[-1]["content"].strip()
        if begun and content.startswith(begun):  # a thought that the prompt begins, and the template drops
            return self._written.turn_of(content.removeprefix(begun).lstrip())
        return self._written.turn_of(full[len(head) :])

    def _veiled(self, messages: Sequence[Message]) -> list[Message]:
        system = [{"role": "system", "content": self.task.system}] if self.task.system else []
        has_system = bool(messages) and messages[0]["role"] == "system"
        veiled: list[Message] = self._written.veil([*([] if has_system else system), *messages])
        return veiled

    def _tools(self, columns: Mapping[str, Any]) -> Any:
        return self._written.veil(columns.get("tools")) or None

    def _find_end_ids(self) -> frozenset[int]:
        """Let the template write a plain answer, one with a thought, and a call, to see what stands inside a turn."""
        inside: set[int] = set()
        ends = {self.tokenizer.eos_token_id}
        for answer in _ANSWERS:
            with suppress(ConfigError):  # not every template knows thoughts and calls
                prompt = self._written.write([_ASKED], answer=True)
                ids = self._written.encode(self._answer(prompt, [_ASKED, answer], None), prompt)
                inside |= set(ids[:-1])
                ends.add(ids[-1])
        return frozenset((self._written.special_ids - inside) | ends)


def _example(row: Row, sequence: _Sequence) -> Example:
    first = sequence.trained.index(True)
    trained = sequence.trained[first:]
    return Example(
        row.where,
        row.values,
        "",
        ids_shared(sequence.ids[:first]),
        ids_shared(sequence.ids[first:]),
        truncated=False,
        trained=None if all(trained) else trained,
    )
