"""How messages and texts become a prompt for one adapter, or for the base model."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftkit.adapter.trained import Trained
from peftkit.config import TaskConfig
from peftkit.data.encode import Encoder
from peftkit.data.encode_chat import ChatEncoder
from peftkit.data.encode_plain import PlainEncoder
from peftkit.errors import AdapterError
from peftkit.evaluate.ask import prompt_example
from peftkit.model.load import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHAT_TOKENS = 512
"""Longest answer of a chat where nothing else was asked for."""
_ENDLESS = 2**40  # tokens: nothing is cut here; what is too long is refused by those who know the answer's length


@dataclass(frozen=True)
class Asking:
    """One model as it is asked: an adapter on its base, or the base alone.

    Attributes:
        name: What users call it.
        key: PEFT's name of the adapter; None for the base model.
        tokenizer: Its tokenizer, with the template that it was trained with; not to be used by two threads at once.
        limit: How many tokens the model reads and writes together.
        max_new_tokens: Longest answer in the recipe's own wording, in tokens; None where it has no such wording.
    """

    name: str
    key: str | None
    tokenizer: PreTrainedTokenizerBase
    limit: int
    max_new_tokens: int | None
    _chat: ChatEncoder
    _wording: Encoder | None
    _plain: PlainEncoder

    @property
    def has_wording(self) -> bool:
        """Whether its recipe asks each text in a wording of its own, and for itself."""
        return self._wording is not None

    def uses_wording(self, messages: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a conversation is asked in the recipe's wording: it is one message of the user, and nothing else."""
        return self.has_wording and len(messages) == 1 and messages[0]["role"] == "user"

    def usual_tokens(self, *, in_wording: bool) -> int:
        """Return the longest answer where none was asked for: the recipe's in its own wording, else that of a chat."""
        return (self.max_new_tokens if in_wording else None) or CHAT_TOKENS

    def conversation(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], frozenset[int]]:
        """Encode a conversation up to where the model answers.

        Args:
            messages: Its turns, as `peftkit.data.messages.asked_messages` gives them.

        Returns:
            The prompt's token ids, and the ids that end an answer.

        Raises:
            DataError: The chat template refuses the conversation.
        """
        if self._wording is not None and self.uses_wording(messages):
            asked = prompt_example(self._wording, messages[0]["content"], room=0)
            return asked.prompt_ids, self._wording.end_ids
        return self._chat.prompt_ids({"messages": [dict(one) for one in messages]}), self._chat.end_ids

    def text(self, text: str) -> tuple[list[int], frozenset[int]]:
        """Encode a text to be continued as it is; control tokens in it are plain text.

        Returns:
            The prompt's token ids, and the ids that end what follows.
        """
        return self._plain.prompt_ids({"text": text}), self.ends

    @property
    def ends(self) -> frozenset[int]:
        """Ids that end the continuation of a text: those that end a turn or a document."""
        return self._chat.end_ids | self._plain.end_ids


def asking_of(name: str, trained: Trained) -> Asking:
    """Return how an adapter is asked.

    Raises:
        AdapterError: It writes no text, or is of a kind of model that is not served.
    """
    if trained.family != "causal":
        kind = "gives labels or scores by a head" if trained.family == "head" else "belongs to an encoder-decoder model"
        raise AdapterError(
            f"the adapter '{name}' {kind}, and a chat needs a model that writes on; `peftkit predict` answers with it"
        )
    config = trained.passport.config
    worded = config.task.kind in ("generation", "classification")
    return _asking(
        name,
        trained.key,
        copy.copy(trained.encoder.tokenizer),
        config.task if config.task.kind == "chat" else TaskConfig(kind="chat"),
        config.model.chat_template_kwargs,
        wording=config.task if worded else None,
        max_new_tokens=config.evaluate.max_new_tokens if worded else None,
    )


def asking_base(name: str, trained: Trained) -> Asking:
    """Return how the base model of an adapter is asked: with its own template, and no recipe's wording."""
    config = trained.passport.config.model
    tokenizer = load_tokenizer(trained.source, config.extra)
    return _asking(name, None, tokenizer, TaskConfig(kind="chat"), config.chat_template_kwargs)


def _asking(
    name: str,
    key: str | None,
    tokenizer: PreTrainedTokenizerBase,
    task: TaskConfig,
    template_kwargs: Mapping[str, Any],
    wording: TaskConfig | None = None,
    max_new_tokens: int | None = None,
) -> Asking:
    limit = int(tokenizer.model_max_length)
    tokenizer.model_max_length = _ENDLESS
    return Asking(
        name,
        key,
        tokenizer,
        limit,
        max_new_tokens,
        ChatEncoder(tokenizer, task, max_length=_ENDLESS, template_kwargs=template_kwargs),
        None if wording is None else Encoder(tokenizer, wording, max_length=_ENDLESS, template_kwargs=template_kwargs),
        PlainEncoder(tokenizer, max_length=_ENDLESS),
    )
