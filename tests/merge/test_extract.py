"""What was merged into a base is found again, and what an adapter cannot hold is named."""

import copy
import json
import shutil

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file

from peftkit.adapter.attach import load_adapter
from peftkit.errors import ConfigError, ModelError
from peftkit.merge.extract import extract

from ..models import tiny
from .adapters import base, changes, logits, logits_with, make_adapter, relative, settings_of

MERGED = {"r": 4, "target_modules": ["q_proj", "o_proj", "up_proj"], "alpha_pattern": {"up_proj": 20}}


def save_tuned(model, original, folder):
    """Write a changed model beside the files of the one that it was."""
    shutil.copytree(original, folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def merged(tiny_model, tmp_path):
    """A base with an adapter merged into it, and the adapter."""
    adapter = make_adapter(tiny_model, tmp_path / "a", 1, **MERGED)
    model = PeftModel.from_pretrained(base(tiny_model), adapter).merge_and_unload()
    return save_tuned(model, tiny_model, tmp_path / "tuned"), adapter


def changed(original, folder, **edits):
    """A copy of a model in which tensors are other ones."""
    shutil.copytree(original, folder)
    state = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(5)
    for name, value in state.items():
        for part, size in edits.items():
            if name.endswith(part.replace("__", ".")):
                state[name] = value + size * torch.randn(value.shape, generator=generator)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_merged_adapter_is_found_again(merged, tiny_model, tmp_path):
    tuned, adapter = merged
    report = extract(str(tiny_model), str(tuned), tmp_path / "out", rank=4)
    expected, found = changes(adapter), changes(tmp_path / "out")
    assert found.keys() == expected.keys() == report["modules"].keys()
    for name, change in expected.items():
        assert relative(found[name], change) < 1e-4
        assert report["modules"][name]["energy_kept"] == pytest.approx(1)
        assert report["modules"][name]["norm"] == pytest.approx(float(change.norm()), rel=1e-4)
    assert report["not_carried"] == []
    written = settings_of(tmp_path / "out")
    assert written["target_modules"] == ["o_proj", "q_proj", "up_proj"]
    assert written["base_model_name_or_path"] == str(tiny_model)
    assert (logits_with(tiny_model, tmp_path / "out") - logits(base(tuned))).abs().max() < 1e-5
    peft = PeftModel.from_pretrained(base(tiny_model), tmp_path / "out")
    assert (logits(peft) - logits(base(tuned))).abs().max() < 1e-5


def test_a_lower_rank_is_the_best_one_and_says_what_it_keeps(merged, tiny_model, tmp_path):
    report = extract(str(tiny_model), str(merged[0]), tmp_path / "out", rank=2, seed=3)
    kept = total = 0.0
    for name, change in changes(merged[1]).items():
        u, s, v = torch.linalg.svd(change, full_matrices=False)
        assert relative(changes(tmp_path / "out")[name], u[:, :2] * s[:2] @ v[:2]) < 1e-3
        kept, total = kept + float((s[:2] ** 2).sum()), total + float((s**2).sum())
    assert report["energy_kept"] == pytest.approx(kept / total, rel=1e-4)


def test_only_the_modules_that_are_named_are_looked_at(merged, tiny_model, tmp_path):
    words = ["layers.0.mlp.up_proj", "o_proj"]
    report = extract(str(tiny_model), str(merged[0]), tmp_path / "out", rank=4, modules=words)
    names = {f"model.layers.{layer}.self_attn.o_proj" for layer in (0, 1)} | {"model.layers.0.mlp.up_proj"}
    assert report["modules"].keys() == names
    assert settings_of(tmp_path / "out")["target_modules"] == sorted(names)
    assert "model.layers.1.mlp.up_proj.weight" in report["not_carried"]
    assert load_adapter(base(tiny_model), tmp_path / "out")


def test_norms_are_named_and_carried_when_asked_for(tiny_model, tmp_path):
    tuned = changed(tiny_model, tmp_path / "tuned", q_proj__weight=0.1, model__norm__weight=0.3)
    report = extract(str(tiny_model), str(tuned), tmp_path / "out", rank=64)
    assert report["not_carried"] == ["model.norm.weight"]
    assert (logits_with(tiny_model, tmp_path / "out") - logits(base(tuned))).abs().max() > 1e-2
    report = extract(str(tiny_model), str(tuned), tmp_path / "full", rank=64, full=True)
    assert (report["not_carried"], report["whole_modules"]) == ([], ["model.norm"])
    expected = logits(base(tuned))
    assert (logits_with(tiny_model, tmp_path / "full") - expected).abs().max() < 1e-5
    assert (logits(PeftModel.from_pretrained(base(tiny_model), tmp_path / "full")) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("how", [{"modules": ["q_proj", "embed_tokens"]}, {"full": True}])
def test_tied_embeddings_are_carried_on_both_sides(tiny_model, tmp_path, how):
    tuned = changed(tiny_model, tmp_path / "tuned", q_proj__weight=0.1, embed_tokens__weight=0.1)
    report = extract(str(tiny_model), str(tuned), tmp_path / "out", rank=64, **how)
    assert report["not_carried"] == []
    sides = {"model.embed_tokens", "lm_head"}
    assert sides <= (set(report["whole_modules"]) if "full" in how else report["modules"].keys())
    assert relative(logits(base(tiny_model)), logits(base(tuned))) > 0.1
    assert (logits_with(tiny_model, tmp_path / "out") - logits(base(tuned))).abs().max() < 1e-4


def test_embeddings_that_were_not_asked_for_are_named(tiny_model, tmp_path):
    tuned = changed(tiny_model, tmp_path / "tuned", q_proj__weight=0.1, embed_tokens__weight=0.1)
    report = extract(str(tiny_model), str(tuned), tmp_path / "out", rank=4)
    assert report["not_carried"] == ["lm_head.weight", "model.embed_tokens.weight"]
    assert {name.rpartition(".")[2] for name in report["modules"]} == {"q_proj"}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A small GPT-2, whose layers hold their weights transposed and whose files leave out a prefix."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=2, vocab_size=259, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    folder = tmp_path_factory.mktemp("gpt2") / "base"
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_layers_that_lie_transposed(gpt2, tmp_path):
    model = transformers.GPT2LMHeadModel.from_pretrained(gpt2)
    original = copy.deepcopy(model)
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_attn.weight.add_(torch.randn(32, 3) @ torch.randn(3, 96) * 0.1)
            block.ln_1.bias.add_(0.2)
    expected = logits(model)
    tuned = save_tuned(model, gpt2, tmp_path / "tuned")
    state = load_file(tuned / "model.safetensors")
    short = {name.removeprefix("transformer."): value for name, value in state.items()}
    save_file(short, tuned / "model.safetensors", metadata={"format": "pt"})
    shutil.copytree(gpt2, tmp_path / "base")
    state = load_file(tmp_path / "base" / "model.safetensors")
    short = {name.removeprefix("transformer."): value for name, value in state.items()}
    save_file(short, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    report = extract(str(tmp_path / "base"), str(tuned), tmp_path / "out", rank=3, full=True)
    assert report["modules"].keys() == {f"transformer.h.{layer}.attn.c_attn" for layer in (0, 1)}
    assert report["whole_modules"] == [f"transformer.h.{layer}.ln_1" for layer in (0, 1)]
    assert settings_of(tmp_path / "out")["fan_in_fan_out"]
    assert relative(logits(original), expected) > 0.05
    assert (logits(load_adapter(original, tmp_path / "out")) - expected).abs().max() < 1e-4


def test_biases_of_layers_that_become_lora_are_named(tmp_path):
    original = tiny("bert")
    tuned = changed(original, tmp_path / "tuned", query__weight=0.1, query__bias=0.1)
    report = extract(str(original), str(tuned), tmp_path / "out", rank=4, full=True)
    assert [name.rpartition("attention.")[2] for name in report["not_carried"]] == ["self.query.bias"] * 2
    assert report["energy_kept"] < 1


def test_the_same_models_have_nothing_to_extract(tiny_model, tmp_path):
    with pytest.raises(ModelError, match="the same weights"):
        extract(str(tiny_model), str(tiny_model), tmp_path / "out", rank=4)
    tuned = changed(tiny_model, tmp_path / "tuned", embed_tokens__weight=0.1)
    with pytest.raises(ModelError, match=r"only others such as 'lm_head\.weight'"):
        extract(str(tiny_model), str(tuned), tmp_path / "out", rank=4)
    assert not (tmp_path / "out").exists()


def test_unknown_layers_are_refused(tiny_model, merged, tmp_path):
    with pytest.raises(ConfigError, match=r"--modules q_prj is no linear layer.*q_proj"):
        extract(str(tiny_model), str(merged[0]), tmp_path / "out", rank=4, modules=["q_prj"])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda state: state.pop("model.norm.weight"), r"lacks 'model\.norm\.weight', which"),
        (lambda state: state.update({"model.norm.weight": torch.ones(32)}), r"shape \(32,\) in .* and \(64,\)"),
        (
            lambda state: state.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)}),
            r"'model\.norm\.weight' in .* holds I8",
        ),
        (lambda state: state["model.layers.0.mlp.up_proj.weight"].fill_(torch.nan), "not finite"),
    ],
)
def test_models_that_do_not_fit_are_refused(tiny_model, tmp_path, edit, message):
    shutil.copytree(tiny_model, tmp_path / "tuned")
    state = load_file(tmp_path / "tuned" / "model.safetensors")
    edit(state)
    save_file(state, tmp_path / "tuned" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message):
        extract(str(tiny_model), str(tmp_path / "tuned"), tmp_path / "out", rank=4)
    assert not (tmp_path / "out").exists()


def edit_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_output_weights_that_came_apart_are_refused(tiny_model, merged, tmp_path):
    edit_config(merged[0], tie_word_embeddings=False)
    with pytest.raises(ModelError, match="output weights of its own"):
        extract(str(tiny_model), str(merged[0]), tmp_path / "out", rank=4)


def test_a_lost_shard_is_named(tiny_model, merged, tmp_path):
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (merged[0] / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"lacks 'model-00002-of-00002\.safetensors'"):
        extract(str(tiny_model), str(merged[0]), tmp_path / "out", rank=4)
