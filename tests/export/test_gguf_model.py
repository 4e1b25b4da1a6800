"""A model written as GGUF computes what it did, by transformers' own reader of that format."""

import json

import numpy as np
import pytest
import torch
from gguf import GGUFReader, dequantize
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GgufConfig

from peftkit.errors import ConfigError, ModelError, OutputError
from peftkit.export.export import export
from peftkit.export.gguf_arch import architecture_of, rope_factors
from peftkit.merge.merge import merge

from .bases import CONFIGS, adapter, base, load, logits, make_adapter

NAMES = ("llama", "tied", "qwen2", "qwen3", "gpt2")


def read(file):
    return AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    ).eval()


def arrays(file):
    return {one.name: dequantize(one.data, one.tensor_type) for one in GGUFReader(file).tensors}


def fields(file):
    return {name: field.contents() for name, field in GGUFReader(file).fields.items()}


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gpt2"])
def test_base_and_adapter_compute_what_they_do_in_peft(name, tmp_path):
    file = tmp_path / "out.gguf"
    report = export(adapter(name), file, to="gguf", dtype="f32")
    adapted = PeftModel.from_pretrained(load(base(name)), adapter(name)).eval()
    expected = logits(adapted)
    with adapted.disable_adapter():
        assert (logits(adapted) - expected).abs().max() > 0.1
    assert (logits(read(file)) - expected).abs().max() < 1e-4
    assert report["architecture"] == name


def test_the_scaled_rotation_of_llama_3_is_what_transformers_computes(tmp_path):
    settings = CONFIGS["tied"]
    export(base("tied"), tmp_path / "out.gguf", to="gguf", dtype="f32")
    factors = arrays(tmp_path / "out.gguf")["rope_freqs.weight"]
    found = load(base("tied")).model.rotary_emb.inv_freq.numpy()
    plain = 10_000.0 ** -(np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(plain / factors, found, rtol=1e-6)
    assert factors.max() == pytest.approx(8)
    assert factors.min() == pytest.approx(1)
    assert rope_factors(CONFIGS["qwen2"]) is None
    assert "output.weight" not in arrays(tmp_path / "out.gguf")
    assert architecture_of(settings).tied


def test_a_merged_folder_gives_the_same_file_as_base_and_adapter(tmp_path):
    merge([(adapter("llama"), 1.0)], tmp_path / "merged", proof=False)
    export(tmp_path / "merged", tmp_path / "a.gguf", to="gguf", dtype="f16")
    export(adapter("llama"), tmp_path / "b.gguf", to="gguf", dtype="f16")
    merged, direct = arrays(tmp_path / "a.gguf"), arrays(tmp_path / "b.gguf")
    assert merged.keys() == direct.keys()
    for name, array in merged.items():
        np.testing.assert_array_equal(array, direct[name])


@pytest.mark.parametrize(
    ("dtype", "limit"),
    [("bf16", 2**-8), ("f16", 2**-10), ("q8_0", 0.01), ("q5_1", 0.05), ("q5_0", 0.06), ("q4_1", 0.1), ("q4_0", 0.13)],
)
def test_each_type_rounds_once_and_no_more_than_it_must(dtype, limit, tmp_path):
    export(base("tied"), tmp_path / "exact.gguf", to="gguf", dtype="f32")
    export(base("tied"), tmp_path / "out.gguf", to="gguf", dtype=dtype)
    exact, found = arrays(tmp_path / "exact.gguf"), arrays(tmp_path / "out.gguf")
    errors = {name: np.linalg.norm(found[name] - one) / np.linalg.norm(one) for name, one in exact.items()}
    assert all(error == 0 for name, error in errors.items() if exact[name].ndim == 1)
    assert 0 < max(errors.values()) < limit
    kinds = {one.name: one.tensor_type.name for one in GGUFReader(tmp_path / "out.gguf").tensors}
    assert kinds["blk.0.attn_q.weight"] == dtype.upper()
    assert kinds["token_embd.weight"] == ("Q8_0" if dtype.startswith(("q4", "q5")) else dtype.upper())


def test_rows_that_blocks_do_not_fit_into_are_float16(tmp_path, monkeypatch):
    folder = tmp_path / "odd"
    settings = CONFIGS["tied"].to_dict() | {"intermediate_size": 80}
    AutoModelForCausalLM.from_config(type(CONFIGS["tied"])(**settings)).save_pretrained(folder)
    for file in base("tied").glob("token*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    export(folder, tmp_path / "out.gguf", to="gguf", dtype="q8_0")
    kinds = {one.name: one.tensor_type.name for one in GGUFReader(tmp_path / "out.gguf").tensors}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")


def test_tokens_template_and_special_ids_are_the_tokenizers(tmp_path):
    export(base("llama"), tmp_path / "out.gguf", to="gguf", dtype="f32")
    found = fields(tmp_path / "out.gguf")
    vocabulary = json.loads((base("llama") / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = found["tokenizer.ggml.tokens"]
    assert all(tokens[place] == token for token, place in vocabulary.items())
    assert len(tokens) == CONFIGS["llama"].vocab_size
    assert tokens[-1] == f"[PAD{len(tokens) - 1}]"
    assert found["tokenizer.ggml.token_type"][-1] == 5
    assert found["tokenizer.ggml.pre"] == "gpt-2"
    assert found["tokenizer.ggml.eos_token_id"] == vocabulary["<|im_end|>"]
    assert found["tokenizer.ggml.add_bos_token"] is False


def test_embeddings_that_part_in_a_merge_get_an_output_of_their_own(tmp_path):
    folder = make_adapter("qwen2", tmp_path / "a", target_modules=["embed_tokens", "q_proj"], rank_pattern={})
    export(folder, tmp_path / "out.gguf", to="gguf", dtype="f32")
    found = arrays(tmp_path / "out.gguf")
    stored = load_file(base("qwen2") / "model.safetensors")["model.embed_tokens.weight"].numpy()
    np.testing.assert_array_equal(found["output.weight"], stored)
    assert np.abs(found["token_embd.weight"] - stored).max() > 0


def test_what_llama_cpp_would_compute_otherwise_is_refused(tmp_path):
    for change, said in (({"hidden_act": "gelu"}, "the activation gelu"), ({"model_type": "olmo"}, "olmo models")):
        settings = type(CONFIGS["llama"])(**CONFIGS["llama"].to_dict())
        for name, value in change.items():
            setattr(settings, name, value)
        with pytest.raises(ModelError, match=said):
            architecture_of(settings)
    settings.model_type = "llama"
    settings.rope_parameters = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(ModelError, match="rope_type=yarn"):
        architecture_of(settings)


def test_nothing_is_written_over_and_nothing_is_left_of_a_failure(tmp_path):
    out = tmp_path / "out.gguf"
    with pytest.raises(ConfigError, match="does not end in"):
        export(base("llama"), tmp_path / "out", to="gguf")
    with pytest.raises(ConfigError, match="q3_k is not one of f32"):
        export(base("llama"), out, to="gguf", dtype="q3_k")
    (tmp_path / "spm").mkdir()
    for file in base("llama").iterdir():
        (tmp_path / "spm" / file.name).write_bytes(file.read_bytes())
    whole = json.loads((base("llama") / "tokenizer.json").read_text())
    whole["pre_tokenizer"] = {"type": "Whitespace"}
    (tmp_path / "spm" / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(ModelError, match="no byte-level BPE"):
        export(tmp_path / "spm", out, to="gguf")
    assert {one.name for one in tmp_path.iterdir()} == {"spm"}
    out.write_text("mine")
    with pytest.raises(OutputError, match="not written over"):
        export(base("llama"), out, to="gguf")
    assert out.read_text() == "mine"
