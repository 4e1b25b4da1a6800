"""Which kind of answer a base model gives, by its configuration and the task."""

import json

import pytest

from peftkit.config import RunConfig
from peftkit.errors import ConfigError, ModelError
from peftkit.model.family import family_of
from peftkit.model.load import Source, find_model

from ..models import ENCODERS, SEQ2SEQ, tiny


def family(name, **task):
    config = RunConfig(recipe="sentiment", model={"path": str(tiny(name))}, task=task)
    return family_of(find_model(config.model), config)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_an_encoder_answers_by_a_head(name, kind):
    assert family(name, kind=kind) == "head"


@pytest.mark.parametrize("name", SEQ2SEQ)
@pytest.mark.parametrize("kind", ["generation", "classification"])
def test_an_encoder_decoder_model_reads_and_writes(name, kind):
    assert family(name, kind=kind) == "seq2seq"


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ({"kind": "generation"}, "causal"),
        ({"kind": "chat"}, "causal"),
        ({"kind": "classification"}, "causal"),
        ({"kind": "classification", "answer": "head"}, "head"),
        ({"kind": "classification", "multi_label": True}, "causal"),
        ({"kind": "regression"}, "head"),
    ],
)
def test_a_decoder_writes_unless_a_head_is_asked_for_or_needed(task, answer):
    assert family("llama", **task) == answer


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("bert", {"kind": "generation"}, "is an encoder .bert., which writes no text"),
        ("bert", {"kind": "classification", "answer": "text"}, "writes no text; leave task.answer out"),
        ("llama", {"kind": "chat", "answer": "head"}, "task.kind=chat needs text"),
        ("llama", {"kind": "regression", "answer": "text"}, "is learned by a head"),
        ("t5", {"kind": "regression"}, "is an encoder-decoder model .t5."),
        ("t5", {"kind": "classification", "answer": "head"}, "is an encoder-decoder model"),
        ("bart", {"kind": "classification", "multi_label": True}, "single labels"),
    ],
)
def test_what_a_model_cannot_do_is_said(name, task, message):
    with pytest.raises(ConfigError, match=message):
        family(name, **task)


@pytest.mark.parametrize(
    ("model_type", "made_as", "answer"),
    [
        ("bert", ["BertModel"], "head"),
        ("bert", ["BertLMHeadModel"], "causal"),
        ("xlm-roberta", None, "head"),
        ("flaubert", ["FlaubertWithLMHeadModel"], "head"),
        ("canine", ["CanineModel"], "head"),
        ("qwen3", ["Qwen3ForCausalLM"], "causal"),
        ("llama", ["LlamaForSequenceClassification"], "head"),
    ],
)
def test_the_kind_of_a_model_is_read_from_its_configuration(tmp_path, model_type, made_as, answer):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "architectures": made_as}))
    config = RunConfig(recipe="sentiment", task={"kind": "classification"})
    assert family_of(Source(str(tmp_path)), config) == answer


def test_a_configuration_that_cannot_be_read_is_a_model_error(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="the configuration in"):
        family_of(Source(str(tmp_path)), RunConfig(recipe="sentiment"))
