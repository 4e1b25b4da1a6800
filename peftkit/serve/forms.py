"""Answers in the forms of OpenAI's two endpoints, whole and in pieces."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from peftkit.serve.writing import Finish

END = b"data: [DONE]\n\n"
"""What ends a stream of events."""


@dataclass(frozen=True)
class Usage:
    """How many tokens an answer took; those that end an answer count too."""

    prompt: int
    completion: int

    def as_json(self) -> dict[str, int]:
        """Return it as OpenAI writes it."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


@dataclass
class Whole:
    """One answer, put together from its pieces."""

    text: str = ""
    finish: Finish | None = None


@dataclass(frozen=True)
class Form:
    """How one response is written: its name, its time, and whether it is a chat's.

    Attributes:
        model: The model's name, as it was asked for.
        chat: Whether it is a chat's; else a completion's.
    """

    model: str
    chat: bool
    _id: str = field(default_factory=lambda: uuid.uuid4().hex)
    _created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answers: Sequence[Whole], usage: Usage) -> dict[str, Any]:
        """Return a response with all of its answers."""
        choices = [
            self._choice(place, one.finish, {"message": {"role": "assistant", "content": one.text}}, one.text)
            for place, one in enumerate(answers)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": usage.as_json()}

    def first(self) -> bytes:
        """Return the event that begins a stream; a completion's begins with its text."""
        return self.piece(0, "", role=True) if self.chat else b""

    def piece(self, place: int, text: str, finish: Finish | None = None, *, role: bool = False) -> bytes:
        """Return the event of a piece of an answer."""
        delta = ({"role": "assistant"} if role else {}) | ({"content": text} if text or role else {})
        choices = [self._choice(place, finish, {"delta": delta}, text)]
        return event({**self._head("chat.completion.chunk"), "choices": choices})

    def usage(self, usage: Usage) -> bytes:
        """Return the event with the number of tokens, which has no answer."""
        return event({**self._head("chat.completion.chunk"), "choices": [], "usage": usage.as_json()})

    def _head(self, kind: str) -> dict[str, Any]:
        prefix, kind = ("chatcmpl", kind) if self.chat else ("cmpl", "text_completion")
        return {"id": f"{prefix}-{self._id}", "object": kind, "created": self._created, "model": self.model}

    def _choice(self, place: int, finish: Finish | None, said: dict[str, Any], text: str) -> dict[str, Any]:
        content = said if self.chat else {"text": text}
        return {"index": place, **content, "logprobs": None, "finish_reason": finish}


def event(value: Any) -> bytes:
    """Return a value as an event of a stream."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
