"""A chat template as the few texts that it puts between messages, found by asking it, and written as a Go template.

Most templates write the same text wherever a message of one role follows one of another. These texts are found with
messages of marks; then the template is asked about many conversations, and one that writes anything else is refused. So
no template is known by name, and none is guessed at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftkit.data.template import Template
from peftkit.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]

_MARKS = ("QZA1", "QZB2", "QZC3", "QZD4")


@dataclass(frozen=True)
class Joints:
    """What a template writes before, between and after messages.

    Attributes:
        start_user: Before a user's message that is the first one.
        start_system: Before a system message, which is the first one; None where the template takes none, so that it is
            left out.
        system_user: Between a system message and the user's; `start_user` where the template takes none.
        user_assistant: Between a user's message and the assistant's.
        assistant_user: Between the assistant's message and the next of the user.
        end: After the last message, the user's, where the assistant is to answer.
    """

    start_user: str
    start_system: str | None
    system_user: str
    user_assistant: str
    assistant_user: str
    end: str

    def write(self, messages: Sequence[Message]) -> str:
        """Write a conversation that begins with the system or the user and ends with the user.

        Args:
            messages: Its messages, whose roles take turns.
        """
        text = ""
        for place, message in enumerate(messages):
            role = message["role"]
            if role == "system":
                text += "" if self.start_system is None else self.start_system + message["content"]
                continue
            before = messages[place - 1]["role"] if place else ""
            if role == "user":
                text += {"": self.start_user, "system": self.system_user}.get(before, self.assistant_user)
            else:
                text += self.user_assistant
            text += message["content"]
        return text + self.end

    def go_template(self) -> str:
        """Return the same as a template of Go's text/template, with Ollama's variables.

        Every text stands as a quoted constant, so that no brace or space of it means anything to Go.
        """
        first = "(index $.Messages 0).Role"
        content = "{{ .Content }}"
        system = "" if self.start_system is None else _quoted(self.start_system) + content
        user = (
            f"{{{{ if eq $i 0 }}}}{_quoted(self.start_user)}"
            f'{{{{ else if and (eq $i 1) (eq {first} "system") }}}}{_quoted(self.system_user)}'
            f"{{{{ else }}}}{_quoted(self.assistant_user)}{{{{ end }}}}"
        )
        return (
            f'{{{{ range $i, $_ := .Messages }}}}{{{{ if eq .Role "system" }}}}{system}'
            f'{{{{ else if eq .Role "user" }}}}{user}{content}'
            f'{{{{ else if eq .Role "assistant" }}}}{_quoted(self.user_assistant)}{content}{{{{ end }}}}{{{{ end }}}}'
            f"{_quoted(self.end)}"
        )

    def without_start(self, text: str) -> Joints:
        """Return the same without a text at its very start, such as a token that the reader puts there itself."""
        return Joints(
            self.start_user.removeprefix(text),
            None if self.start_system is None else self.start_system.removeprefix(text),
            self.system_user if self.start_system is not None else self.system_user.removeprefix(text),
            self.user_assistant,
            self.assistant_user,
            self.end,
        )


def find_joints(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any] | None = None) -> Joints:
    """Find what a tokenizer's chat template writes around messages, and prove it on conversations of many shapes.

    Args:
        tokenizer: A tokenizer with a chat template.
        arguments: Named arguments of the template.

    Raises:
        ModelError: It has none, or one that does more than to write texts around messages.
    """
    name = tokenizer.name_or_path
    if not isinstance(tokenizer.chat_template, str):
        raise ModelError(f"the tokenizer of '{name}' has no chat template; export with --to gguf and write a Modelfile")
    template = Template(tokenizer, arguments=arguments)
    joints = _joints(template, name)
    for messages in shapes(system=joints.start_system is not None):
        expected = _written(template, messages)
        if expected is None or joints.write(messages) != expected:
            roles = ", ".join(one["role"] for one in messages)
            raise ModelError(
                f"the chat template of '{name}' does more than to put texts around messages (seen with: {roles}), so "
                "no Go template can be derived from it; export with --to gguf and write a Modelfile"
            )
    return joints


def shapes(*, system: bool) -> Iterator[list[Message]]:
    """Give conversations of the shapes that a chat has: one to five turns, with and without a system message.

    Args:
        system: Whether conversations with a system message are among them.
    """
    texts = (
        "Is the film worth seeing?",
        'Quotes " and \\ and {{ braces }} and <tags>.',
        "Zwei\n\nZeilen, größer als 3 €",
        "中文 и русский 🙂",
        "x",
    )
    for turns in range(1, 6):
        for offset in range(len(texts)):
            said = (texts[(offset + place) % len(texts)] for place in range(2 * turns - 1))
            messages = [{"role": ("user", "assistant")[place % 2], "content": one} for place, one in enumerate(said)]
            yield messages
            if system:
                yield [{"role": "system", "content": "Answer in one word: yes or no."}, *messages]


def trims(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a chat template takes away space around a message, which a Go template cannot do."""
    written = _written(Template(tokenizer), [{"role": "user", "content": f"  {_MARKS[0]}  "}])
    return written is not None and f"  {_MARKS[0]}  " not in written


def _joints(template: Template, name: str) -> Joints:
    user, answer, more, system = _MARKS
    turns = [
        {"role": "user", "content": user},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": more},
    ]
    whole = _written(template, turns)
    start, *between = _split(whole, [user, answer, more], name)
    with_system = _written(template, [{"role": "system", "content": system}, *turns])
    opened = None if with_system is None else _split(with_system, [system, user], name)
    return Joints(
        start_user=start,
        start_system=opened[0] if opened else None,
        system_user=opened[1] if opened else start,
        user_assistant=between[0],
        assistant_user=between[1],
        end=between[2],
    )


def _split(text: str | None, marks: Sequence[str], name: str) -> list[str]:
    """Return what stands before the first mark, between marks, and after the last one."""
    parts = []
    rest = text or ""
    for mark in marks:
        before, found, rest = rest.partition(mark)
        if not found or mark in rest:
            raise ModelError(
                f"the chat template of '{name}' leaves out messages, repeats or moves them, so no Go template can be "
                "derived from it; export with --to gguf and write a Modelfile"
            )
        parts.append(before)
    return [*parts, rest]


def _written(template: Template, messages: Sequence[Message]) -> str | None:
    """Write a conversation up to where the assistant answers; None where the template refuses it."""
    try:
        return template.write(messages, answer=True)
    except ConfigError:
        return None


def _quoted(text: str) -> str:
    """Return a text as a constant in a Go action; JSON's escapes are Go's too."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""
