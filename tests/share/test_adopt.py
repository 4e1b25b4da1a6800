"""Adapters of other programs are taken in where they fit their base, and say what is only assumed of them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from peftkit.adapter.passport import read_passport
from peftkit.adapter.trained import open_adapter
from peftkit.errors import AdapterError, ConfigError, OutputError
from peftkit.share.adopt import adopt

from ..adapter.hub_rules import read_head
from ..merge.bases import adapted, adapter, base, change_config, logits, tensors

WEIGHTS = "adapter_model.safetensors"
MLX_NAMES = {".lora_A.weight": ".lora_a", ".lora_B.weight": ".lora_b", ".lora_magnitude_vector": ".m"}


@pytest.fixture
def model(tiny_model):
    """Folder of a small base model that has a tokenizer."""
    return tiny_model


@pytest.fixture
def plain(model, tmp_path):
    """A LoRA as PEFT saves it."""
    return adapter(model, tmp_path / "plain", target_modules=["q_proj", "down_proj"], use_rslora=True)


def test_an_adopted_adapter_answers_as_it_did(plain, model, tmp_path):
    report = adopt(plain, tmp_path / "out")
    assert report["program"] == "PEFT"
    assert report["tensors"] == len(tensors(plain))
    opened = open_adapter(tmp_path / "out")
    assert torch.equal(logits(opened.model), logits(adapted(model, plain)))
    passport = read_passport(tmp_path / "out")
    assert passport.base.path == str(model)
    assert passport.base.quantization == "none"
    assert passport.config.adapter.use_rslora
    assert passport.adopted.program == "PEFT"
    assert "base.quantization" in passport.adopted.assumed
    assert "data" in passport.adopted.unknown
    assert passport.before == passport.after == {}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "PEFT trained it." in card
    assert f"| not known | {', '.join(passport.adopted.unknown)} |".replace("_", "\\_") in card
    assert "learning rate" not in card
    assert "rows for training" not in card
    assert read_head(card)["license"] == "unknown"
    with pytest.raises(AdapterError, match="has a passport"):
        adopt(tmp_path / "out", tmp_path / "again")
    with pytest.raises(OutputError):
        adopt(plain, tmp_path / "out")


def test_a_recipe_says_how_it_is_asked(plain, tmp_path):
    adopt(plain, tmp_path / "out", recipe="sentiment", quantization="nf4")
    passport = read_passport(tmp_path / "out")
    assert passport.recipe == "sentiment"
    assert passport.config.task.labels == ("negative", "positive")
    assert passport.base.quantization == "nf4"
    assert "base.quantization" not in passport.adopted.assumed
    answer = open_adapter(tmp_path / "out").predict(["a warm film"])[0]
    assert set(answer.scores) == {"negative", "positive"}


def test_a_template_that_was_saved_with_it_is_its_own(plain, tmp_path):
    template = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"
    (plain / "chat_template.jinja").write_text(template)
    adopt(plain, tmp_path / "out")
    passport = read_passport(tmp_path / "out")
    assert passport.tokenizer.template == template
    assert "tokenizer.template" not in passport.adopted.assumed


@pytest.mark.parametrize(
    ("card", "named", "program"),
    [
        ("made with Unsloth", None, "Unsloth"),
        ("axolotl version: `0.12`", None, "axolotl"),
        ("tags:\n- llama-factory", None, "LLaMA-Factory"),
        ("", None, "PEFT"),
        ("", "unsloth/some-model-bnb-4bit", "Unsloth"),
    ],
)
def test_the_program_is_known_by_what_it_writes(card, named, program, plain, model, tmp_path):
    (plain / "README.md").write_text(card)
    config = json.loads((plain / "adapter_config.json").read_text())
    (plain / "adapter_config.json").write_text(
        json.dumps(config | ({"base_model_name_or_path": named} if named else {}))
    )
    adopt(plain, tmp_path / "out", base=str(model))
    passport = read_passport(tmp_path / "out")
    assert passport.adopted.program == program
    assert passport.base.quantization == ("nf4" if named else "none")


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_mlx_adapters_are_turned_into_peft_s(kind, model, tmp_path):
    """The factors of MLX-LM are transposed, and its scale is alpha / r."""
    plain = adapter(model, tmp_path / "plain", target_modules=["q_proj"], use_dora=kind == "dora", r=4, lora_alpha=8)
    state = {}
    for name, value in tensors(plain).items():
        name = name.removeprefix("base_model.model.")
        for ours, mlx in (
            (".lora_A.weight", ".lora_a"),
            (".lora_B.weight", ".lora_b"),
            (".lora_magnitude_vector", ".m"),
        ):
            if name.endswith(ours):
                state[name.removesuffix(ours) + mlx] = value if mlx == ".m" else value.T.contiguous()
    folder = tmp_path / "mlx"
    folder.mkdir()
    save_file(state, folder / "adapters.safetensors")
    config = {"fine_tune_type": kind, "model": str(model), "num_layers": 2}
    config["lora_parameters"] = {"rank": 4, "scale": 2.0, "dropout": 0.0}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert adopt(folder, tmp_path / "out")["program"] == "MLX-LM"
    opened = open_adapter(tmp_path / "out")
    assert torch.allclose(logits(opened.model), logits(adapted(model, plain)), atol=1e-6)


def test_weights_of_the_base_are_left_out(model, tmp_path):
    plain = adapter(model, tmp_path / "plain", target_modules=["q_proj"])
    state = tensors(plain)
    own = load_file(model / "model.safetensors")["model.embed_tokens.weight"]
    save_file({**state, "base_model.model.model.embed_tokens.weight": own}, plain / WEIGHTS)
    adopt(plain, tmp_path / "out")
    assert tensors(tmp_path / "out").keys() == state.keys()
    save_file({**state, "base_model.model.model.embed_tokens.weight": own + 1}, plain / WEIGHTS)
    with pytest.raises(AdapterError, match=r"brings its own 'model\.embed_tokens\.weight'"):
        adopt(plain, tmp_path / "other")


def break_json(folder):
    (folder / "adapter_config.json").write_text("{")


def only_a_pickle(folder):
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def lose_a_tensor(folder):
    state = tensors(folder)
    state.pop(min(state))
    save_file(state, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(break_json, "damaged"), (only_a_pickle, "is a pickle"), (lose_a_tensor, "lacks")],
    ids=["json", "pickle", "tensor"],
)
def test_what_does_not_fit_is_refused(spoil, said, plain, tmp_path):
    spoil(plain)
    with pytest.raises(AdapterError, match=said):
        adopt(plain, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_another_base_is_refused(plain, tmp_path):
    with pytest.raises(AdapterError, match=r"shape|place|lacks"):
        adopt(plain, tmp_path / "out", base=str(base("llama")))
    assert not list(tmp_path.glob("*out*"))


def test_settings_of_no_recipe_and_unknown_kinds_are_refused(plain, tmp_path):
    with pytest.raises(ConfigError, match="name one with --recipe"):
        adopt(plain, tmp_path / "out", words=("task.labels=a,b",))
    with pytest.raises(ConfigError, match="--quantization int3 is not one of"):
        adopt(plain, tmp_path / "out", quantization="int3")


def test_an_adapter_for_labels_needs_a_recipe(plain, tmp_path):
    change_config(plain, task_type="FEATURE_EXTRACTION")
    with pytest.raises((ConfigError, AdapterError), match="name a recipe"):
        adopt(plain, tmp_path / "out")
    assert not (tmp_path / "out").exists()
