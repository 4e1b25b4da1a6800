"""Finding a base model, and loading it in the dtype and quantization that were asked for."""

import gc
import json
import shutil
import sys
from pathlib import Path

import bitsandbytes
import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open

from peftkit import machine
from peftkit.config import ModelConfig, RunConfig
from peftkit.errors import MissingDependencyError, ModelError
from peftkit.model import load
from peftkit.model.load import Source, find_model, load_model, load_tokenizer, resolved_dtype, settings_of
from peftkit.model.quantize import held_kind, quantization_config

from ..models import tiny


def loaded(config: ModelConfig):
    return load_model(find_model(config), RunConfig(recipe="sentiment", model=config), "causal")


@pytest.mark.parametrize(("fast", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_auto_is_the_fast_dtype_of_the_machine(monkeypatch, fast, dtype):
    monkeypatch.setattr(machine, "fast_dtype", lambda: fast)
    assert resolved_dtype(ModelConfig()) == dtype
    assert resolved_dtype(ModelConfig(dtype="float16")) == torch.float16


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_4_bit_kinds_have_double_quantization_and_compute_in_the_dtype(kind):
    settings = quantization_config(ModelConfig(quantization=kind), torch.bfloat16)
    assert settings.load_in_4bit
    assert not settings.load_in_8bit
    assert settings.bnb_4bit_quant_type == kind
    assert settings.bnb_4bit_use_double_quant
    assert settings.bnb_4bit_compute_dtype == torch.bfloat16


def test_int8_is_8_bit():
    settings = quantization_config(ModelConfig(quantization="int8"), torch.bfloat16)
    assert settings.load_in_8bit
    assert not settings.load_in_4bit


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["none", "nf4", "fp4", "int8"])
def test_linear_layers_are_quantized_and_the_rest_has_the_dtype(tiny_model, kind, dtype):
    config = ModelConfig(path=str(tiny_model), quantization=kind, dtype=dtype)
    model = loaded(config)
    wanted = getattr(torch, dtype)
    assert not model.training
    assert model.model.embed_tokens.weight.dtype == model.model.norm.weight.dtype == wanted
    layers = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    head = layers.pop("lm_head")
    assert (type(head), head.weight.dtype) == (torch.nn.Linear, wanted)
    classes = {"none": torch.nn.Linear, "int8": bitsandbytes.nn.Linear8bitLt}
    assert {type(module) for module in layers.values()} == {classes.get(kind, bitsandbytes.nn.Linear4bit)}
    stored = {"none": wanted, "int8": torch.int8}.get(kind, torch.uint8)
    assert {module.weight.dtype for module in layers.values()} == {stored}
    if kind in ("nf4", "fp4"):
        states = [module.weight.quant_state for module in layers.values()]
        assert {(state.quant_type, state.nested, state.dtype) for state in states} == {(kind, True, wanted)}
        assert {module.compute_dtype for module in layers.values()} == {wanted}


@pytest.mark.skipif(sys.platform != "linux", reason="reads what is mapped from /proc")
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantized_model_lets_go_of_its_files(tiny_model, tmp_path, kind):
    shutil.copytree(tiny_model, tmp_path / "stored")
    whole = loaded(ModelConfig(path=str(tiny_model), quantization="none", dtype="bfloat16"))
    whole.save_pretrained(tmp_path / "stored")
    del whole
    gc.collect()
    model = loaded(ModelConfig(path=str(tmp_path / "stored"), quantization=kind, dtype="bfloat16"))
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    with safe_open(tmp_path / "stored" / "model.safetensors", "pt") as file:
        assert torch.equal(model.model.embed_tokens.weight, file.get_tensor("model.embed_tokens.weight"))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_more_arguments_reach_from_pretrained(tiny_model):
    config = ModelConfig(
        path=str(tiny_model), quantization="none", attn_implementation="eager", extra={"output_attentions": True}
    )
    model = loaded(config)
    assert model.config._attn_implementation == "eager"
    assert model.config.output_attentions is True


def test_the_tokenizer_pads_on_the_left_and_always_can(tiny_model, tmp_path):
    tokenizer = load_tokenizer(Source(str(tiny_model)))
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("left", "<|endoftext|>")
    shutil.copytree(tiny_model, tmp_path / "copy")
    path = tmp_path / "copy" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.pop("pad_token")
    path.write_text(json.dumps(settings))
    assert load_tokenizer(Source(str(tmp_path / "copy"))).pad_token == "<|im_end|>"


def test_a_folder_is_its_own_source_and_a_hub_id_keeps_its_revision(tiny_model):
    assert find_model(ModelConfig(path=str(tiny_model))) == Source(str(tiny_model))
    found = find_model(ModelConfig(path="Qwen/Qwen3-4B", revision="abc"))
    assert (found.path, found.revision, found.folder) == ("Qwen/Qwen3-4B", "abc", None)


def test_gguf_files_are_converted_into_the_cache_each_into_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path / "cache"))
    asked = []

    def convert(gguf, out, *, progress):
        asked.append((gguf, out))
        out.mkdir(parents=True)
        return out

    monkeypatch.setattr(load, "gguf_to_safetensors", convert)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.gguf").write_bytes(b"GGUF" + name.encode())
        found = find_model(ModelConfig(path=str(tmp_path / name / "model.gguf")))
        assert asked[-1][0] == tmp_path / name / "model.gguf"
        assert found == Source(str(asked[-1][1]))
    assert asked[0][1] != asked[1][1]
    assert all(out.parent == tmp_path / "cache" / "models" for _, out in asked)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent.gguf", "no GGUF file"),
        ("./absent", "is no model"),
        ("/no/such/folder", "is no model"),
        ("absent", "give an embedded one .smollm2-135m-instruct, minilm-l6., a folder"),
        ("a/b/c", "is no model"),
    ],
)
def test_a_path_that_names_no_model_is_refused(path, message):
    with pytest.raises(ModelError, match=message):
        find_model(ModelConfig(path=path))


def test_folders_that_hold_no_model_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json; it holds nothing"):
        find_model(ModelConfig(path=str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"no \.safetensors weights"):
        find_model(ModelConfig(path=str(tmp_path)))
    with pytest.raises(ModelError, match="is no model"):
        find_model(ModelConfig(path=str(tmp_path / "config.json")))


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.json", "{"), ("config.json", '{"model_type": "no-such"}'), ("model.safetensors", "x")],
)
def test_a_damaged_model_is_a_model_error(tiny_model, tmp_path, name, content):
    shutil.copytree(tiny_model, tmp_path / "copy")
    (tmp_path / "copy" / name).write_text(content)
    config = ModelConfig(path=str(tmp_path / "copy"), quantization="none")
    with pytest.raises(ModelError, match="cannot be loaded"):
        loaded(config)


@pytest.mark.parametrize("content", [None, "{"])
def test_a_missing_or_damaged_tokenizer_is_a_model_error(tiny_model, tmp_path, content):
    shutil.copytree(tiny_model, tmp_path / "copy")
    if content is None:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / "copy" / name).unlink()
    else:
        (tmp_path / "copy" / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match="tokenizer in"):
        load_tokenizer(Source(str(tmp_path / "copy")))


def test_weights_that_are_missing_are_named(tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_model, tmp_path / "copy")
    state = load_file(tmp_path / "copy" / "model.safetensors")
    del state["model.norm.weight"]
    save_file(state, tmp_path / "copy" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 'model\.norm\.weight'"):
        loaded(ModelConfig(path=str(tmp_path / "copy"), quantization="none"))


@pytest.mark.parametrize(
    ("name", "stated", "positions"),
    [
        ("bert", int(1e30), 128),
        ("bert", 64, 64),
        ("roberta", int(1e30), 126),  # of its 128 places the first belongs to no token, the second to padding
        ("roberta", 100, 100),
        ("llama", int(1e30), 2048),
        ("t5", 128, int(1e30)),
    ],
)
def test_a_tokenizer_knows_how_many_tokens_the_model_can_read(tmp_path, name, stated, positions):
    shutil.copytree(tiny(name), tmp_path / "copy")
    path = tmp_path / "copy" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": stated}))
    assert load_tokenizer(Source(str(tmp_path / "copy"))).model_max_length == positions


@pytest.fixture(scope="module", params=["nf4", "int8"])
def stored(request, tiny_model, tmp_path_factory):
    """A folder whose weights were quantized before they were saved, and how."""
    config = ModelConfig(path=str(tiny_model), quantization=request.param, dtype="float32")
    folder = tmp_path_factory.mktemp("stored") / request.param
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    loaded(config).save_pretrained(folder)
    return folder, request.param


@pytest.mark.parametrize("asked", ["none", "nf4", "int8"])
def test_weights_that_were_stored_quantized_stay_as_they_are(stored, asked):
    folder, kind = stored
    config = ModelConfig(path=str(folder), quantization=asked, dtype="float32")
    assert held_kind(settings_of(find_model(config)), config) == kind
    layer = loaded(config).model.layers[0].mlp.up_proj
    assert type(layer) is {"nf4": bitsandbytes.nn.Linear4bit, "int8": bitsandbytes.nn.Linear8bitLt}[kind]
    assert getattr(layer, "support_avx512bf16_for_cpu", False) is False


@pytest.mark.parametrize(
    ("method", "library"), [("gptq", "optimum gptqmodel"), ("awq", "gptqmodel"), ("quanto", "optimum-quanto")]
)
def test_a_stored_kind_whose_library_is_absent_names_it(tiny_model, tmp_path, monkeypatch, method, library):
    from transformers import quantizers

    shutil.copytree(tiny_model, tmp_path / "copy")
    path = tmp_path / "copy" / "config.json"
    settings = {"quant_method": method, "bits": 4, "weights": "int8"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": settings}))
    config = ModelConfig(path=str(tmp_path / "copy"))
    for module, name in (("quantizer_gptq", "is_optimum"), ("quantizer_awq", "is_gptqmodel")):
        monkeypatch.setattr(getattr(quantizers, module), f"{name}_available", lambda: False)
    monkeypatch.setattr(quantizers.quantizer_quanto, "is_optimum_quanto_available", lambda: False)
    assert held_kind(settings_of(find_model(config)), config) == method
    with pytest.raises(MissingDependencyError, match=f"stored as {method}, .*`pip install {library}`"):
        loaded(config)


@pytest.mark.parametrize("name", ["trust_remote_code", "code_revision"])
def test_a_configuration_cannot_run_code(tiny_model, name):
    with pytest.raises(ValidationError, match=rf"model\.extra\.{name} is refused"):
        ModelConfig(path=str(tiny_model), extra={name: True})
