"""The table of well-known models gives their published numbers of parameters, and is found by usual names."""

import json

import pytest
import transformers

from peftkit.config import ModelConfig
from peftkit.errors import ModelError
from peftkit.merge.places import meta_model
from peftkit.plan.shapes import TABLE, known_models, known_settings, settings_for

CLASSES = {"bert": "AutoModel", "roberta": "AutoModel", "t5": "AutoModelForSeq2SeqLM"}


@pytest.mark.parametrize("name", sorted(json.loads(TABLE.read_text())))
def test_a_model_of_the_table_has_its_published_parameters(name) -> None:
    settings = known_settings(name)
    settings.num_hidden_layers, layers = 1, settings.num_hidden_layers
    model_class = getattr(transformers, CLASSES.get(settings.model_type, "AutoModelForCausalLM"))
    if settings.model_type == "t5":
        settings.num_hidden_layers = layers
        assert count(model_class, settings) == known_models()[name]
        return
    if hasattr(settings, "layer_types"):
        settings.layer_types = settings.layer_types[:1]
    one = count(model_class, settings)
    settings.num_hidden_layers = 2
    if hasattr(settings, "layer_types"):
        settings.layer_types = settings.layer_types[:1] * 2
    two = count(model_class, settings)
    assert one + (layers - 1) * (two - one) == known_models()[name]


def count(model_class, settings):
    return sum(value.numel() for value in meta_model(model_class, settings).parameters())


@pytest.mark.parametrize(
    ("word", "layers"),
    [
        ("Qwen/Qwen3-4B-Instruct-2507", 36),
        ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", 32),
        ("mistralai/Mistral-7B-Instruct-v0.3", 32),
        ("google/gemma-2-9b-it", 42),
        ("smollm2-135m-instruct", 30),
        ("bert-base-uncased", 12),
    ],
)
def test_a_model_is_found_by_a_usual_name(word, layers) -> None:
    assert settings_for(ModelConfig(path=word)).num_hidden_layers == layers


def test_a_folder_needs_its_configuration_alone(tmp_path) -> None:
    known_settings("HuggingFaceTB/SmolLM2-360M").save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
    assert settings_for(ModelConfig(path=str(tmp_path))).hidden_size == 960


def test_what_is_no_model_is_named(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"'.*nothing' is no model"):
        settings_for(ModelConfig(path=str(tmp_path / "nothing")))
