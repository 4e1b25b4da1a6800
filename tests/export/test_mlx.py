"""An adapter written for MLX-LM is the same change by its formula, scale x A B with both transposed."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from peftkit.errors import AdapterError, ModelError
from peftkit.export.export import export

from ..merge.adapters import changes, relative
from .bases import adapter, base, make_adapter


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_rslora_and_patterns_come_out_of_one_rank_and_scale(name, tmp_path):
    report = export(adapter(name), tmp_path / "out", to="mlx")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    state = load_file(tmp_path / "out" / "adapters.safetensors")
    parameters = config["lora_parameters"]
    expected = changes(adapter(name))
    assert (config["fine_tune_type"], config["num_layers"]) == ("lora", 2)
    assert parameters["keys"] == sorted(expected)
    assert len(state) == 2 * len(expected) == 2 * report["modules"]
    assert (tmp_path / "out" / "adapters.safetensors").stat().st_mode & 0o777 == 0o644
    for module, change in expected.items():
        a, b = state[f"{module}.lora_a"].double(), state[f"{module}.lora_b"].double()
        assert a.shape[1] == b.shape[0] == parameters["rank"]
        assert relative(parameters["scale"] * (a @ b).T, change) < 1e-6


def test_a_base_of_rotation_that_mlx_would_not_see_is_said(tmp_path):
    assert "and takes 1e+06 where it is not; write" in export(adapter("qwen2"), tmp_path / "a", to="mlx")["warnings"][0]
    assert export(adapter("qwen3"), tmp_path / "b", to="mlx")["warnings"] == []
    shutil.copytree(base("qwen2"), tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps(config | {"rope_theta": 10_000.0}))
    assert export(adapter("qwen2"), tmp_path / "c", to="mlx", base=str(tmp_path / "base"))["warnings"] == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"modules_to_save": ["norm"]}, "as a whole, which MLX-LM does not take"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "changes 'model.embed_tokens'"),
        ({"target_modules": ["lm_head", "q_proj"]}, "changes 'lm_head'"),
    ],
)
def test_what_mlx_would_take_otherwise_is_refused(settings, said, tmp_path):
    folder = make_adapter("qwen2", tmp_path / "a", **settings)
    with pytest.raises(AdapterError, match=said):
        export(folder, tmp_path / "out", to="mlx")
    assert not (tmp_path / "out").exists()


def test_models_with_other_names_there_are_refused(tmp_path):
    with pytest.raises(ModelError, match="modules of gpt2 models otherwise"):
        export(adapter("gpt2"), tmp_path / "out", to="mlx")
