"""How a base model answers: by writing on (causal), by a head on what it read, or by reading and then writing."""

from __future__ import annotations

from typing import Any, Literal

from peftkit.config import RunConfig
from peftkit.errors import ConfigError
from peftkit.model.load import Source, settings_of

Family = Literal["causal", "head", "seq2seq"]
TASK_TYPES: dict[Family, str] = {"causal": "CAUSAL_LM", "head": "SEQ_CLS", "seq2seq": "SEQ_2_SEQ_LM"}
"""PEFT's name of each."""


def family_of(source: Source, config: RunConfig) -> Family:
    """Say how the base model of a run answers.

    Raises:
        ConfigError: The model cannot do the task, or not in the way that was asked for.
        ModelError: The model's configuration cannot be read.
    """
    return family_by(settings_of(source), config)


def family_by(settings: Any, config: RunConfig) -> Family:
    """Say how a base model of such a configuration answers.

    Raises:
        ConfigError: The model cannot do the task, or not in the way that was asked for.
    """
    task, path = config.task, config.model.path
    if settings.is_encoder_decoder:
        if task.kind not in ("generation", "classification") or task.answer == "head" or task.multi_label:
            raise ConfigError(
                f"'{path}' is an encoder-decoder model ({settings.model_type}), which is trained here to write texts "
                "or single labels; for other tasks take a decoder or an encoder"
            )
        return "seq2seq"
    if task.kind in ("generation", "chat", "completion"):
        if task.answer == "head":
            raise ConfigError(f"task.answer=head gives labels or scores, and task.kind={task.kind} needs text")
        if _is_encoder(settings):
            raise ConfigError(
                f"'{path}' is an encoder ({settings.model_type}), which writes no text; it can do "
                "task.kind=classification and regression"
            )
        return "causal"
    if task.kind == "regression" and task.answer == "text":
        raise ConfigError("task.kind=regression is learned by a head; leave task.answer out")
    if _is_encoder(settings):
        if task.answer == "text":
            raise ConfigError(
                f"'{path}' is an encoder ({settings.model_type}), which writes no text; leave task.answer out"
            )
        return "head"
    if task.kind == "regression" or task.answer == "head":
        return "head"
    return "head" if task.answer == "auto" and _has_head(settings) else "causal"


def _is_encoder(settings: Any) -> bool:
    """Whether a model fills gaps or only sorts, rather than writing on: BERT and its kin."""
    from transformers.models.auto import modeling_auto as known

    kind, made_as = settings.model_type, settings.architectures or ()
    if kind not in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return kind in known.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    writes = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in made_as)
    return kind in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not writes


def _has_head(settings: Any) -> bool:
    """Whether a decoder was stored with a head in place of its projection onto the vocabulary."""
    return any(name.endswith("ForSequenceClassification") for name in settings.architectures or ())
