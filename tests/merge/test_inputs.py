"""What a merge starts from: words of the command line, adapters, and the base that they belong to."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from peftkit.errors import AdapterError, ModelError
from peftkit.merge.inputs import open_inputs

from .bases import adapter, base, change_config, merged, tensors


def without(folder: Path, part: str) -> None:
    kept = {name: value for name, value in tensors(folder).items() if part not in name}
    save_file(kept, folder / "adapter_model.safetensors")


def with_more(folder: Path, name: str, value) -> None:
    save_file({**tensors(folder), name: value}, folder / "adapter_model.safetensors")


def poison(folder: Path) -> None:
    state = tensors(folder)
    next(iter(state.values()))[0, 0] = float("nan")
    save_file(state, folder / "adapter_model.safetensors")


PREFIX = "base_model.model.model.layers"
WRONG = {
    "a tensor is missing": (lambda f: without(f, "layers.1.self_attn.q_proj.lora_B"), "the adapter lacks"),
    "a tensor is left over": (
        lambda f: with_more(f, f"{PREFIX}.9.self_attn.q_proj.lora_A.weight", torch.zeros(4, 32)),
        "has no place for 'model.layers.9",
    ),
    "a tensor has another shape": (
        lambda f: with_more(f, f"{PREFIX}.0.self_attn.q_proj.lora_A.weight", torch.zeros(4, 16)),
        "another shape",
    ),
    "a value is not finite": (poison, "not finite"),
    "targets that the base has not": (lambda f: change_config(f, target_modules=["nowhere"]), "does not fit"),
    "a method that is unknown": (lambda f: change_config(f, peft_type="NEW"), "cannot be loaded here"),
    "prompts": (
        lambda f: change_config(f, peft_type="PROMPT_TUNING", num_virtual_tokens=4, target_modules=None),
        "has no place|changes no weights|lacks",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_adapter_that_does_not_fit_is_refused_before_a_byte_is_written(what, tmp_path):
    of = base("llama")
    folder = adapter(of, tmp_path / "a", target_modules=["q_proj", "v_proj"])
    damage, message = WRONG[what]
    damage(folder)
    with pytest.raises(AdapterError, match=message):
        merged(of, [folder], tmp_path / "out")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a"]


def test_a_base_with_fewer_layers_is_refused(tmp_path):
    folder = adapter(base("llama"), tmp_path / "a", target_modules=["q_proj"])
    config = json.loads((base("llama") / "config.json").read_text())
    small = tmp_path / "small"
    small.mkdir()
    (small / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    kept = {name: value for name, value in tensors(base("llama")).items() if ".layers.1." not in name}
    save_file(kept, small / "model.safetensors")
    with pytest.raises(AdapterError, match=r"has no place for 'model.layers.1"):
        merged(small, [folder], tmp_path / "out")
    (small / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"lack 'model.layers.1.*'; fetch"):
        merged(small, [folder], tmp_path / "out")


def test_an_adapter_without_a_base_asks_for_one_and_a_quantized_one_is_refused(tmp_path):
    folder = adapter(base("llama"), tmp_path / "a", target_modules=["q_proj"])
    change_config(folder, base_model_name_or_path=None)
    with pytest.raises(AdapterError, match="--base"):
        open_inputs([(folder, 1.0)])
    packed = tmp_path / "packed"
    packed.mkdir()
    for file in base("llama").iterdir():
        (packed / file.name).write_bytes(file.read_bytes())
    stored = json.loads((packed / "config.json").read_text())
    stored["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    (packed / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ModelError, match=r"stored as nf4.*--base"):
        open_inputs([(folder, 1.0)], str(packed))


def test_several_adapters_add_up_with_their_weights(tmp_path):
    of = base("llama")
    one = adapter(of, tmp_path / "one", target_modules=["q_proj", "v_proj"])
    two = adapter(of, tmp_path / "two", seed=2, r=6, use_rslora=True, target_modules=["q_proj", "down_proj"])
    record = merged(of, [(one, 0.7), (two, -0.4)], tmp_path / "out")
    assert [entry["weight"] for entry in record["adapters"]] == [0.7, -0.4]
    before, after = tensors(of), tensors(tmp_path / "out")
    parts = [(tensors(one), 0.7 * 9 / 4), (tensors(two), -0.4 * 9 / 6**0.5)]
    for name in before:
        wanted = before[name].double()
        for state, scale in parts:
            key = f"base_model.model.{name.removesuffix('.weight')}.lora_"
            if f"{key}A.weight" in state:
                wanted = wanted + scale * state[f"{key}B.weight"].double() @ state[f"{key}A.weight"].double()
        assert torch.allclose(after[name].double(), wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "lora_only"}])
def test_changes_that_do_not_add_up_are_refused(settings, tmp_path):
    of = base("llama")
    if "bias" in settings:
        of = base("gpt2")
    targets = ["c_attn"] if "bias" in settings else ["q_proj"]
    one = adapter(of, tmp_path / "one", target_modules=targets, **settings)
    two = adapter(of, tmp_path / "two", target_modules=targets, **settings)
    with pytest.raises(AdapterError, match="do not add up"):
        merged(of, [one, two], tmp_path / "out")
    with pytest.raises(AdapterError, match=r"a weight of 0.5"):
        merged(of, [(one, 0.5)], tmp_path / "out")
