"""What is saved is what is loaded, and nothing that does not fit is loaded."""

import json
import os
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS, count_parameters, load_adapter, peft_config, save_adapter
from peftkit.config import AdapterConfig
from peftkit.errors import AdapterError, ConfigError

from ..stages import Stages, make_visible

KINDS = ("none", "nf4", "int8")
PROMPT = torch.tensor([[1, 9, 40, 77, 120, 33, 5]])


def logits(model):
    with torch.inference_mode():
        return model.eval()(input_ids=PROMPT).logits


@pytest.fixture
def run(small):
    return Stages.of([*small, "model.quantization=none", "model.dtype=float32", "adapter.r=4"])


@pytest.fixture
def saved(run, tmp_path):
    folder = tmp_path / "adapter"
    save_adapter(make_visible(run.adapted()), folder)
    return folder


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        *((kind, words) for kind in KINDS for words in ((), ("adapter.use_rslora=true",))),
        *((kind, ("adapter.use_dora=true",)) for kind in ("none", "nf4")),
    ],
)
def test_a_saved_adapter_gives_the_same_logits_when_loaded(small, tmp_path, quantization, words):
    run = Stages.of([*small, f"model.quantization={quantization}", "model.dtype=float32", "adapter.r=4", *words])
    model = make_visible(run.adapted())
    before = logits(model)
    with model.disable_adapter():
        assert not torch.allclose(logits(model), before, atol=1e-3)
    save_adapter(model, tmp_path)
    loaded = load_adapter(run.base(), tmp_path)
    assert torch.equal(logits(loaded), before)
    assert not loaded.training
    assert not [name for name, value in loaded.named_parameters() if value.requires_grad]
    assert torch.equal(logits(PeftModel.from_pretrained(run.base(), tmp_path)), before)


def test_a_weight_decomposed_adapter_on_int8_weights_is_refused(small):
    with pytest.raises(ConfigError, match=r"adapter\.use_dora=true does not work on int8.*model\.quantization=nf4"):
        Stages.of([*small, "model.quantization=int8", "adapter.use_dora=true"])


def test_an_adapter_can_be_loaded_to_train_on(run, saved):
    model = load_adapter(run.base(), saved, trainable=True)
    trainable = [name for name, value in model.named_parameters() if value.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)


def change(folder, edit):
    state = load_file(folder / WEIGHTS)
    edit(state)
    save_file(state, folder / WEIGHTS)


FIRST = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
SHORT = r"model\.layers\.0\.mlp\.down_proj\.lora_A\.weight"


def test_a_missing_tensor_is_named(run, saved):
    change(saved, lambda state: state.pop(FIRST))
    with pytest.raises(AdapterError, match=f"lacks '{SHORT}'$"):
        load_adapter(run.base(), saved)


def test_more_missing_tensors_are_counted(run, saved):
    change(saved, lambda state: [state.pop(name) for name in sorted(state)[:3]])
    with pytest.raises(AdapterError, match=f"lacks '{SHORT}' and 2 more"):
        load_adapter(run.base(), saved)


def test_a_tensor_without_a_place_is_named(run, saved):
    name = FIRST.replace("layers.0", "layers.7")
    change(saved, lambda state: state.update({name: state[FIRST].clone()}))
    with pytest.raises(AdapterError, match=r"no place for 'model\.layers\.7\.mlp\.down_proj\.lora_A\.weight'"):
        load_adapter(run.base(), saved)


def test_a_tensor_of_another_shape_is_named(run, saved):
    change(saved, lambda state: state.update({FIRST: state[FIRST][:2].clone()}))
    with pytest.raises(AdapterError, match=f"another shape for '{SHORT}'"):
        load_adapter(run.base(), saved)


@pytest.mark.parametrize("name", [WEIGHTS, PEFT_CONFIG])
def test_a_missing_file_is_named(run, saved, name):
    (saved / name).unlink()
    with pytest.raises(AdapterError, match=name.replace(".", r"\.")):
        load_adapter(run.base(), saved)


@pytest.mark.parametrize("name", [WEIGHTS, PEFT_CONFIG])
@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 40, b"[]"])
def test_a_damaged_file_is_an_adapter_error(run, saved, name, content):
    (saved / name).write_bytes(content)
    with pytest.raises(AdapterError, match="damaged"):
        load_adapter(run.base(), saved)


def test_a_file_that_was_cut_off_is_an_adapter_error(run, saved):
    content = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(content[:-8])
    with pytest.raises(AdapterError, match="damaged"):
        load_adapter(run.base(), saved)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "XLORA"}, "kind XLORA"),
        ({"peft_type": "IA3"}, "lacks|has no place for|does not fit"),
        ({"peft_type": "NOPE"}, "kind NOPE"),
        ({"peft_type": None}, "kind None"),
        ({"target_modules": ["no_such_layer"]}, "does not fit the base model"),
        ({"target_modules": ["q_proj"]}, "has no place for"),
        ({"r": -1}, "does not fit the base model"),
        ({"r": "four"}, "has r='four', which is no size"),
        ({"r": 2}, "another shape"),
    ],
)
def test_settings_that_do_not_fit_are_an_adapter_error(run, saved, settings, message):
    path = saved / PEFT_CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(AdapterError, match=message):
        load_adapter(run.base(), saved)


def test_saving_and_loading_ask_no_hub(run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda *names: asked.append(names))
    model = run.adapted()
    model.peft_config["default"].base_model_name_or_path = "somebody/model"
    save_adapter(model, tmp_path)
    load_adapter(run.base(), tmp_path)
    assert asked == []


def test_the_weights_are_float32_and_readable_by_others(small, tmp_path):
    run = Stages.of([*small, "model.quantization=nf4", "model.dtype=bfloat16"])
    save_adapter(run.adapted(), tmp_path)
    assert (tmp_path / WEIGHTS).stat().st_mode & 0o777 == 0o644
    assert {value.dtype for value in load_file(tmp_path / WEIGHTS).values()} == {torch.float32}
    assert sorted(file.name for file in tmp_path.iterdir()) == [PEFT_CONFIG, WEIGHTS]


def test_the_configuration_names_the_base_as_the_run_did(run, saved):
    written = json.loads((saved / PEFT_CONFIG).read_text())
    assert written["base_model_name_or_path"] == run.config.model.path
    assert (written["peft_type"], written["r"], written["inference_mode"]) == ("LORA", 4, True)
    assert list(written) == sorted(written)


def test_sets_are_written_in_an_order_of_their_own():
    script = (
        "import json, sys\n"
        "from peftkit.adapter.attach import _plain\n"
        "words = 'q_proj k_proj v_proj o_proj gate_proj up_proj down_proj'.split()\n"
        "print(list(set(words)))\n"
        "print(json.dumps(_plain({'target_modules': set(words), 'nested': {'exclude': frozenset(words)}})))\n"
    )
    printed = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        printed.append(done.stdout.splitlines())
    assert printed[0][0] != printed[1][0]
    assert printed[0][1] == printed[1][1]


def test_saving_again_gives_the_same_bytes_and_replaces_what_is_there(run, saved):
    model = load_adapter(run.base(), saved)
    before = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(b"old")
    save_adapter(model, saved)
    assert (saved / WEIGHTS).read_bytes() == before


def test_one_seed_gives_one_start(small):
    starts = []
    for seed in (0, 0, 1):
        run = Stages.of([*small, f"train.seed={seed}"])
        starts.append({name: value for name, value in run.adapted().named_parameters() if "lora_A" in name})
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    assert not any(torch.equal(starts[0][name], starts[2][name]) for name in starts[0])


@pytest.mark.parametrize("quantization", KINDS)
def test_parameters_are_counted_per_value(small, quantization):
    run = Stages.of([*small, f"model.quantization={quantization}", "adapter.r=4"])
    base = sum((64 * 64 * 2, 64 * 32 * 2, 64 * 128 * 3, 64 * 2)) * 2 + 64 + 259 * 64
    adapter = 4 * 2 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))
    assert count_parameters(run.adapted()) == (adapter, base + adapter)


def test_targets_that_no_layer_has_are_a_configuration_error(small):
    run = Stages.of([*small, "adapter.target_modules=q_prj"])
    with pytest.raises(ConfigError, match=r"adapter\.target_modules=q_prj"):
        run.adapted()


@pytest.mark.parametrize("name", ["lora_rank", "r", "target_modules"])
def test_an_extra_argument_that_peft_does_not_know_or_that_has_a_key_is_refused(name):
    with pytest.raises(ConfigError, match=rf"adapter\.extra\.{name}"):
        peft_config(AdapterConfig(extra={name: 1}))


def test_a_name_of_another_method_is_refused():
    with pytest.raises(ConfigError, match=r"adapter\.extra\.fan_in is not an argument of PEFT's VeraConfig"):
        peft_config(AdapterConfig(method="vera", extra={"fan_in": 1}))


@pytest.mark.parametrize("start", ["true", "false", "gaussian", "orthogonal"])
def test_without_the_adapter_the_base_answers_as_before(small, start):
    words = ("model.quantization=none", "model.dtype=float32", f"adapter.init_lora_weights={start}")
    run = Stages.of([*small, *words])
    model = run.adapted()
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(run.base()))


def test_an_extra_argument_reaches_peft():
    settings = peft_config(AdapterConfig(extra={"bias": "lora_only"}, target_modules=("q_proj", "v_proj")))
    assert settings.bias == "lora_only"
    assert settings.target_modules == {"q_proj", "v_proj"}
    assert peft_config(AdapterConfig()).target_modules == "all-linear"
