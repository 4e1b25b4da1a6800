"""What an adapter is added to when it becomes a whole GGUF model: the weights it was trained on, and its own base."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from peftkit.errors import AdapterError
from peftkit.export.commands import serving_commands
from peftkit.export.export import export
from peftkit.export.ollama import MODEL
from peftkit.merge.merge import merge
from peftkit.pipeline import run as whole_run

from .test_gguf_model import arrays, fields


@pytest.fixture(scope="module")
def trained(tiny_model, reviews, tmp_path_factory):
    """Folder of a run on 4-bit weights."""
    words = [
        *(f"model.path={tiny_model}", f"data.path={reviews}", "model.quantization=nf4", "model.dtype=float32"),
        *("train.max_steps=3", "train.learning_rate=1e-2", "train.max_length=256", "adapter.use_rslora=true"),
        *("evaluate.max_rows=6", "evaluate.bootstrap_samples=20"),
    ]
    return whole_run("sentiment", words=words, out=tmp_path_factory.mktemp("onto") / "reviews").folder


def same(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


def test_an_adapter_of_4_bit_weights_is_added_to_those_unless_told(trained, tmp_path):
    report = export(trained, tmp_path / "default.gguf", to="gguf", dtype="f32")
    assert "was trained on nf4 weights, and is merged onto the trained ones" in report["warnings"][-1]
    export(trained, tmp_path / "original.gguf", to="gguf", dtype="f32", onto="original")
    for onto, name in (("trained", "default"), ("original", "original")):
        merge([(trained, 1.0)], tmp_path / onto, onto=onto, proof=False)
        export(tmp_path / onto, tmp_path / f"{onto}-merged.gguf", to="gguf", dtype="f32")
        same(arrays(tmp_path / f"{name}.gguf"), arrays(tmp_path / f"{onto}-merged.gguf"))
    default, original = (arrays(tmp_path / f"{name}.gguf")["blk.0.attn_q.weight"] for name in ("default", "original"))
    assert np.abs(default - original).max() > 1e-3
    found = fields(tmp_path / "default.gguf")
    assert found["general.name"] == "reviews"
    assert len(found["peftkit.base_fingerprint"]) == 64


def test_a_run_becomes_a_model_for_ollama(trained, tmp_path):
    report = export(trained, tmp_path / "out", to="ollama")
    assert report["dtype"] == "q8_0"
    assert (tmp_path / "out" / MODEL).stat().st_size == report["bytes"]
    assert "<|im_start|>user" in report["template"]
    system = "Classify the sentiment of the text. Answer with one word: negative, positive."
    assert (tmp_path / "out" / "Modelfile").read_text().endswith(f'\nSYSTEM """{system}"""\n')


def test_a_client_is_told_what_training_saw(trained):
    (vllm,) = serving_commands(trained, servers=["vllm"])
    assert vllm.model == "reviews"
    assert vllm.notes[0] == "the adapter was trained on nf4 weights, and the server holds other ones"
    assert vllm.notes[1].endswith("Answer with one word: negative, positive.")


def test_another_base_is_refused_unless_forced(trained, tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "other")
    state = load_file(tmp_path / "other" / "model.safetensors")
    state["model.norm.weight"] = state["model.norm.weight"] + torch.tensor(0.5)
    save_file(state, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    words = {"to": "gguf", "dtype": "f32", "base": str(tmp_path / "other")}
    with pytest.raises(AdapterError, match="was trained on other weights"):
        export(trained, tmp_path / "out.gguf", **words)
    assert not (tmp_path / "out.gguf").exists()
    report = export(trained, tmp_path / "out.gguf", force=True, **words)
    assert "was trained on other weights" in " ".join(report["warnings"])
    np.testing.assert_allclose(arrays(tmp_path / "out.gguf")["output_norm.weight"], 1.5)
