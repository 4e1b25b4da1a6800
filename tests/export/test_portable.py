"""The portable form of an adapter is the same change, with nothing left to look up."""

import pytest
from peft import PeftModel
from safetensors.torch import load_file

from peftkit.adapter.attach import WEIGHTS
from peftkit.adapter.passport import read_passport
from peftkit.errors import AdapterError, ConfigError, OutputError
from peftkit.export.export import export
from peftkit.judge import predict
from peftkit.merge.combine import combine
from peftkit.merge.given import Weighted

from ..merge.adapters import (
    PATTERNS,
    base,
    changes,
    edit_settings,
    logits,
    logits_with,
    make_adapter,
    relative,
    settings_of,
)
from ..merge.conftest import runs  # noqa: F401 - a fixture


@pytest.fixture
def patterned(tiny_model, tmp_path):
    return make_adapter(tiny_model, tmp_path / "a", **PATTERNS)


def test_rslora_and_patterns_are_the_same_change_with_scale_one(patterned, tiny_model, tmp_path):
    report = export(patterned, tmp_path / "out", to="portable")
    settings = settings_of(tmp_path / "out")
    assert (settings["r"], settings["lora_alpha"], report["rank"]) == (6, 6, 6)
    assert not any(settings.get(name) for name in ("use_rslora", "rank_pattern", "alpha_pattern"))
    shapes = {value.shape[0] for name, value in load_file(tmp_path / "out" / WEIGHTS).items() if "lora_A" in name}
    assert shapes == {6}
    expected, found = changes(patterned), changes(tmp_path / "out")
    assert expected.keys() == found.keys()
    assert max(relative(found[name], one) for name, one in expected.items()) < 1e-6
    assert relative(logits_with(tiny_model, tmp_path / "out"), logits_with(tiny_model, patterned)) < 1e-6
    assert relative(logits(base(tiny_model)), logits_with(tiny_model, patterned)) > 1e-2


def test_plain_peft_loads_it(patterned, tiny_model, tmp_path):
    export(patterned, tmp_path / "out", to="portable")
    found = logits(PeftModel.from_pretrained(base(tiny_model), tmp_path / "out"))
    assert relative(found, logits_with(tiny_model, patterned)) < 1e-6


def test_only_what_an_older_peft_knows_is_written(patterned, tmp_path):
    export(patterned, tmp_path / "out", to="portable")
    newer = {"velora_config", "kasa_config", "monteclora_config", "qalora_group_size", "megatron_core", "arrow_config"}
    assert not newer & settings_of(tmp_path / "out").keys()
    assert settings_of(tmp_path / "out")["target_modules"] == ["q_proj", "up_proj", "v_proj"]


def test_bf16_is_half_as_large(patterned, tmp_path):
    full, half = (export(patterned, tmp_path / dtype, to="portable", dtype=dtype) for dtype in ("f32", "bf16"))
    assert half["bytes"] < 0.6 * full["bytes"]
    expected, found = changes(patterned), changes(tmp_path / "bf16")
    assert 1e-4 < max(relative(found[name], one) for name, one in expected.items()) < 1e-2


def test_modules_that_are_saved_whole_are_carried_with_a_warning(tiny_model, tmp_path):
    folder = make_adapter(tiny_model, tmp_path / "a", modules_to_save=["norm"])
    report = export(folder, tmp_path / "out", to="portable")
    assert "as a whole, which PEFT reads and most servers do not" in report["warnings"][0]
    assert relative(logits_with(tiny_model, tmp_path / "out"), logits_with(tiny_model, folder)) < 1e-6


def test_embeddings_are_carried_with_a_warning(tiny_model, tmp_path):
    folder = make_adapter(tiny_model, tmp_path / "a", target_modules=["embed_tokens", "q_proj"], use_rslora=True)
    report = export(folder, tmp_path / "out", to="portable")
    assert "changes the embedding 'model.embed_tokens'" in report["warnings"][0]
    assert relative(logits_with(tiny_model, tmp_path / "out"), logits_with(tiny_model, folder)) < 1e-6


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, "is DoRA, .* merge it into its base instead"),
        ({"lora_bias": True}, "with a bias of its own"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "on bare parameters .* merge it instead"),
        ({"bias": "all"}, "with the base's biases"),
        ({"init_lora_weights": "pissa"}, "PEFT changes the base weights"),
        ({"peft_type": "IA3"}, "of the kind IA3, not LoRA"),
    ],
)
def test_what_two_factors_cannot_hold_is_refused(settings, said, patterned, tmp_path):
    edit_settings(patterned, **settings)
    with pytest.raises(AdapterError, match=said):
        export(patterned, tmp_path / "out", to="portable")
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(patterned, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="not written over"):
        export(patterned, tmp_path / "out", to="portable")
    with pytest.raises(ConfigError, match="--dtype f16 is not one of f32, bf16"):
        export(patterned, tmp_path / "new", to="portable", dtype="f16")
    with pytest.raises(ConfigError, match="merges nothing"):
        export(patterned, tmp_path / "new", to="portable", force=True)


@pytest.mark.xdist_group("merge")
def test_a_trained_adapter_keeps_its_passport_and_its_answers(runs, tmp_path):  # noqa: F811
    report = export(runs[1], tmp_path / "out", to="portable")
    assert report["passport"]
    passport = read_passport(tmp_path / "out")
    assert passport.made_from.change == "export"
    assert passport.made_from.settings == {"to": "portable", "dtype": "f32"}
    assert [one.name for one in passport.made_from.parents] == ["run2"]
    assert passport.after == {}
    text = ["it was a lovely film"]
    expected, found = (predict(folder, text)[0]["scores"] for folder in (runs[1], tmp_path / "out"))
    assert found == pytest.approx(expected, rel=1e-5)
    combine([Weighted(tmp_path / "out"), Weighted(runs[0])], tmp_path / "both")
    assert read_passport(tmp_path / "both").made_from.parents[0].name == "out"
