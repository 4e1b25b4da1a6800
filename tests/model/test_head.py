"""The head of a model for labels or scores: its settings, its start, its dtype, and what is trained with it."""

import pytest
import torch

from peftkit import machine
from peftkit.config import RunConfig
from peftkit.errors import ModelError
from peftkit.model.head import head_modules
from peftkit.model.load import Source, find_model, load_model

from ..models import ENCODERS, tiny

torch.set_num_threads(1)
machine.quiet_libraries()
IDS = torch.tensor([[2, 15, 16, 17, 9, 13, 3]])
HEADS = {
    "bert": ["bert.pooler", "classifier"],
    "roberta": ["classifier"],
    "distilbert": ["pre_classifier", "classifier"],
    "deberta-v2": ["pooler", "classifier"],
    "modernbert": ["classifier"],
    "llama": ["score"],
}


def run_config(path, task=None, *, seed=0, **model):
    task = {"kind": "classification", "labels": ("bad", "so-so", "good"), **(task or {})}
    settings = {"path": str(path), "quantization": "none", "dtype": "float32", **model}
    return RunConfig(recipe="sentiment", task=task, model=settings, train={"seed": seed})


def load(path, task=None, **settings):
    config = run_config(path, task, **settings)
    return load_model(find_model(config.model), config, "head")


def head_state(model):
    parts = tuple(f"{name}." for name in head_modules(model))
    return {name: value for name, value in model.state_dict().items() if name.startswith(parts)}


@pytest.mark.parametrize("name", HEADS)
def test_what_the_weights_lack_is_trained_whole_and_all_else_is_frozen(name):
    model = load(tiny(name))
    assert head_modules(model) == HEADS[name]
    trained = [key for key, value in model.named_parameters() if value.requires_grad]
    assert trained == [key for key in dict(model.named_parameters()) if key.startswith(tuple(HEADS[name]))]
    assert not model.training


@pytest.mark.parametrize("name", HEADS)
def test_a_head_starts_by_the_seed_alone(name):
    torch.manual_seed(5)
    first = head_state(load(tiny(name), seed=3))
    torch.manual_seed(6)
    again = head_state(load(tiny(name), seed=3, dtype="bfloat16"))
    other = head_state(load(tiny(name), seed=4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    weights = [key for key in first if key.endswith("weight")]
    assert weights
    assert not any(torch.equal(first[key], other[key]) for key in weights)
    spread = [float(first[key].std()) for key in weights]
    assert all(0.005 < value < 0.6 for value in spread)  # each model's own start, and none left at zero


def test_loading_leaves_the_callers_random_numbers_alone():
    """A head is drawn from a generator of its own: what transformers drew before does not reach it."""
    model = load(tiny("bert"))
    torch.manual_seed(0)
    wanted = torch.nn.init.normal_(torch.empty_like(model.bert.pooler.dense.weight), std=0.02)
    assert torch.equal(model.bert.pooler.dense.weight, wanted)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_float32_and_never_quantized(name, quantization):
    import bitsandbytes

    model = load(tiny(name), quantization=quantization, dtype="bfloat16")
    kind = {"nf4": bitsandbytes.nn.Linear4bit, "int8": bitsandbytes.nn.Linear8bitLt}[quantization]
    assert {value.dtype for value in head_state(model).values()} == {torch.float32}
    for part in head_modules(model):
        assert not any(isinstance(module, kind) for module in model.get_submodule(part).modules())
    assert sum(isinstance(module, kind) for module in model.modules()) >= 8
    with torch.inference_mode():
        logits = model(input_ids=IDS).logits
    assert (logits.dtype, tuple(logits.shape)) == (torch.float32, (1, 3))
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("task", "problem", "names"),
    [
        ({}, "single_label_classification", ["bad", "so-so", "good"]),
        ({"multi_label": True}, "multi_label_classification", ["bad", "so-so", "good"]),
        ({"kind": "regression", "labels": None}, "regression", ["score"]),
    ],
)
def test_the_configuration_says_what_the_outputs_mean(tmp_path, task, problem, names):
    model = load(tiny("bert"), task)
    model.save_pretrained(tmp_path)
    from transformers import AutoConfig

    settings = AutoConfig.from_pretrained(tmp_path)
    assert settings.problem_type == problem
    assert settings.num_labels == len(names)
    assert settings.id2label == dict(enumerate(names))
    assert settings.label2id == {name: number for number, name in enumerate(names)}


def test_a_decoder_knows_its_padding():
    assert load(tiny("llama")).config.pad_token_id == 2


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A model that was stored with a head for three labels."""
    folder = tmp_path_factory.mktemp("stored")
    load(tiny("bert"), seed=9).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        (("bad", "so-so", "good"), True),
        (("Bad", "So-so", "Good"), True),
        (("good", "so-so", "bad"), False),
        (("one", "two", "three"), False),
        (("bad", "good"), False),
    ],
)
def test_a_stored_head_is_kept_where_it_means_the_same(stored, labels, kept):
    before, after = load(tiny("bert"), seed=9), load(stored, {"labels": labels}, seed=1)
    same = torch.equal(before.classifier.weight, after.classifier.weight)
    assert same == kept
    assert after.classifier.out_features == len(labels)
    assert torch.equal(before.bert.pooler.dense.weight, after.bert.pooler.dense.weight)
    assert head_modules(after) == ["classifier"]


def test_weights_that_are_missing_elsewhere_are_an_error(tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    for name in ENCODERS:
        shutil.copytree(tiny(name), tmp_path / name)
        state = load_file(tmp_path / name / "model.safetensors")
        gone = next(key for key in state if (".layer." in key or ".layers." in key) and "weight" in key)
        del state[gone]
        save_file(state, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        config = run_config(tmp_path / name)
        with pytest.raises(ModelError, match="lack"):
            load_model(Source(str(tmp_path / name)), config, "head")
