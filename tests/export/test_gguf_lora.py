"""An adapter written as GGUF is the same change by llama.cpp's own formula."""

import numpy as np
import pytest
from gguf import GGUFReader, dequantize

from peftkit.errors import AdapterError, ConfigError
from peftkit.export.export import export

from ..merge.adapters import changes, edit_settings, relative
from .bases import CONFIGS, adapter, base, make_adapter

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def read(file):
    """The change of each tensor as llama.cpp computes it, alpha / r B A, and the fields of the file."""
    reader = GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    arrays = {one.name: dequantize(one.data, one.tensor_type).astype(np.float64) for one in reader.tensors}
    found = {}
    for name, a in arrays.items():
        if name.endswith(".lora_a"):
            b = arrays[name.replace("lora_a", "lora_b")]
            found[name.removesuffix(".weight.lora_a")] = fields["adapter.lora.alpha"] / len(a) * (b @ a)
    return found, fields


def turned(change, heads):
    """Rows as llama.cpp has them: those that turn together stand side by side."""
    size = len(change) // heads
    order = [
        head * size + half * size // 2 + place for head in range(heads) for place in range(size // 2) for half in (0, 1)
    ]
    return change[order]


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gpt2"])
def test_rslora_and_patterns_come_out_of_alpha_over_rank(name, tmp_path):
    import torch

    report = export(adapter(name), tmp_path / "out.gguf", to="gguf-lora")
    found, fields = read(tmp_path / "out.gguf")
    assert (fields["general.type"], fields["adapter.type"]) == ("adapter", "lora")
    assert fields["general.architecture"] == name == report["architecture"]
    expected = changes(adapter(name))
    assert len(found) == len(expected) == report["modules"]
    for module, change in expected.items():
        layer, _, rest = module.split(".", 1)[1].partition(".")[2].partition(".")
        ours = found[f"blk.{layer}.{NAMES[rest]}"]
        heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}.get(rest, 0) if name == "llama" else 0
        theirs = turned(change.numpy(), heads) if heads else change.numpy()
        assert relative(torch.from_numpy(ours), torch.from_numpy(theirs)) < 1e-6


def test_half_the_bits_are_half_the_bytes(tmp_path):
    full, half = (
        export(adapter("llama"), tmp_path / f"{dtype}.gguf", to="gguf-lora", dtype=dtype) for dtype in ("f32", "bf16")
    )
    assert half["bytes"] < 0.7 * full["bytes"]
    exact, rounded = (read(tmp_path / f"{dtype}.gguf")[0] for dtype in ("f32", "bf16"))
    errors = [np.linalg.norm(rounded[name] - one) / np.linalg.norm(one) for name, one in exact.items()]
    assert 1e-4 < max(errors) < 1e-2


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("llama", {"modules_to_save": ["norm"]}, "as a whole, and llama.cpp takes factors of LoRA alone"),
        ("llama", {"target_modules": ["embed_tokens", "q_proj"]}, "changes the embedding 'model.embed_tokens'"),
        ("qwen2", {"target_modules": ["lm_head", "q_proj"]}, "also that of the embeddings"),
    ],
)
def test_what_llama_cpp_would_take_otherwise_is_refused(name, settings, said, tmp_path):
    folder = make_adapter(name, tmp_path / "a", **settings)
    with pytest.raises(AdapterError, match=f"{said}.*peftkit export --to gguf"):
        export(folder, tmp_path / "out.gguf", to="gguf-lora")
    assert not (tmp_path / "out.gguf").exists()


def test_an_output_of_its_own_is_taken(tmp_path):
    export(make_adapter("llama", tmp_path / "a", target_modules=["lm_head"]), tmp_path / "out.gguf", to="gguf-lora")
    assert read(tmp_path / "out.gguf")[0]["output"].shape == (CONFIGS["llama"].vocab_size, 64)


def test_the_base_can_be_named_and_has_to_be_found(tmp_path):
    folder = make_adapter("llama", tmp_path / "a")
    edit_settings(folder, base_model_name_or_path="nowhere/at-all")
    with pytest.raises(AdapterError, match="is needed for its configuration"):
        export(folder, tmp_path / "out.gguf", to="gguf-lora")
    export(folder, tmp_path / "out.gguf", to="gguf-lora", base=str(base("llama")))
    edit_settings(folder, base_model_name_or_path=None)
    with pytest.raises(AdapterError, match="does not name its base model; name it with --base"):
        export(folder, tmp_path / "other.gguf", to="gguf-lora")
    with pytest.raises(ConfigError, match="q8_0 is not one of f32, f16, bf16"):
        export(folder, tmp_path / "other.gguf", to="gguf-lora", dtype="q8_0")
