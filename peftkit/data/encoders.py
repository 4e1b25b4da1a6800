"""The encoder of rows that suits a task and a kind of model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peftkit.config import RunConfig
from peftkit.data.encode import Encoder
from peftkit.data.examples import RowEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from peftkit.model.family import Family


def make_encoder(family: Family, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> RowEncoder:
    """Return the encoder for a configuration; its labels must be known by now.

    Raises:
        ConfigError: Tokenizer and task do not go together.
    """
    if family == "head":
        from peftkit.data.encode_head import HeadEncoder

        return HeadEncoder(tokenizer, config.task, max_length=config.train.max_length)
    if family == "seq2seq":
        from peftkit.data.encode_seq2seq import Seq2SeqEncoder

        return Seq2SeqEncoder(
            tokenizer, config.task, max_length=config.train.max_length, max_new_tokens=config.evaluate.max_new_tokens
        )
    if config.task.kind == "completion":
        from peftkit.data.encode_plain import PlainEncoder

        return PlainEncoder(tokenizer, max_length=config.train.max_length)
    kind: Any = Encoder
    if config.task.kind == "chat":
        from peftkit.data.encode_chat import ChatEncoder as kind
    encoder: RowEncoder = kind(
        tokenizer,
        config.task,
        max_length=config.train.max_length,
        template_kwargs=config.model.chat_template_kwargs,
    )
    return encoder
