"""A start from the base's own weights trains as PEFT's does, and leaves the base as it is."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from peftkit.adapter.attach import PEFT_CONFIG, attach, save_adapter
from peftkit.adapter.starts import STARTS
from peftkit.config import AdapterConfig
from peftkit.errors import ConfigError

from .exercise import BATCH, IDS, Bases, logits, train

READ_BASE = [start.name for start in STARTS if start.reads_base]


@pytest.fixture(scope="module")
def bases(tiny_model):
    return Bases(tiny_model)


def started(bases, start, quantization="none", **more):
    config = AdapterConfig(r=4, init_lora_weights=start, **more)
    return attach(bases.get(quantization), config, base=bases.config(quantization), seed=0, steps=2, batches=[BATCH])


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_it_trains_as_peft_does_where_the_base_is_changed(bases, start):
    model = started(bases, start)
    settings = LoraConfig(
        r=4, lora_alpha=32, target_modules="all-linear", init_lora_weights=start, task_type="CAUSAL_LM"
    )
    changed = get_peft_model(bases.get("none"), settings)
    with changed.disable_adapter():
        assert not torch.allclose(logits(changed), logits(bases.get("none")), atol=1e-3)
    train(model)
    train(changed)
    assert torch.allclose(logits(model), logits(changed), atol=1e-4)


@pytest.mark.parametrize("scaling", [{}, {"use_rslora": True}])
@pytest.mark.parametrize("start", READ_BASE)
def test_it_is_saved_as_a_plain_lora_of_twice_the_rank_that_peft_loads(bases, tmp_path, start, scaling):
    model = started(bases, start, **scaling)
    train(model)
    save_adapter(model, tmp_path)
    written = json.loads((tmp_path / PEFT_CONFIG).read_text())
    assert (written["r"], written["init_lora_weights"]) == (8, True)
    loaded = PeftModel.from_pretrained(bases.get("none"), tmp_path)
    assert torch.allclose(logits(loaded), logits(model), atol=1e-5)


def test_a_quantized_base_is_left_as_it_is_too(bases):
    for quantization in ("nf4", "int8"):
        model = started(bases, "olora", quantization)
        train(model)
        with model.disable_adapter():
            assert torch.equal(logits(model), logits(bases.get(quantization)))


def test_the_start_is_not_trained(bases):
    model = started(bases, "pissa")
    before = {name: value.clone() for name, value in model.named_buffers() if "start_" in name}
    train(model)
    after = dict(model.named_buffers())
    assert len(before) == 28
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("start", ["corda", "lora_ga", "eva"])
def test_without_rows_a_start_that_looks_at_them_is_refused(bases, start):
    with pytest.raises(ConfigError, match=f"init_lora_weights={start} needs training rows"):
        attach(bases.get("none"), AdapterConfig(r=4, init_lora_weights=start), base=bases.config("none"), seed=0)


def test_rows_that_are_too_short_for_eva_are_refused_and_not_waited_for(bases):
    short = {"input_ids": IDS[:1, :3], "labels": IDS[:1, :3]}
    config = AdapterConfig(r=4, init_lora_weights="eva")
    with pytest.raises(ConfigError, match=r"eva needs batches of at least 8 tokens for adapter\.r=4"):
        attach(bases.get("none"), config, base=bases.config("none"), seed=0, batches=[short])


def test_padding_is_left_out_of_what_corda_learns_from(bases):
    padded = {
        "input_ids": torch.cat([IDS, torch.zeros_like(IDS)], 1),
        "attention_mask": torch.cat([torch.ones_like(IDS), torch.zeros_like(IDS)], 1),
        "labels": torch.cat([IDS, torch.full_like(IDS, -100)], 1),
    }
    config = AdapterConfig(r=4, init_lora_weights="corda")
    models = [
        attach(bases.get("none"), config, base=bases.config("none"), seed=0, batches=[batch])
        for batch in (BATCH, padded)
    ]
    firsts = [dict(model.named_buffers()) for model in models]
    name = next(name for name in firsts[0] if name.endswith("start_A"))
    assert torch.allclose(firsts[0][name], firsts[1][name], atol=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"init_lora_weights": "pisa"}, "'pisa' is no start of LoRA"),
        ({"init_lora_weights": "pissa_niter_0"}, "is no start of LoRA"),
        ({"init_lora_weights": "pissa", "use_dora": True}, "use_dora"),
        ({"init_lora_weights": "olora", "extra": {"rank_pattern": {"q_proj": 2}}}, "ranks of single layers"),
        ({"init_lora_weights": "pissa", "method": "vera"}, "is for adapter.method=lora"),
        ({"r": 4, "method": "ia3"}, "adapter.r means nothing to adapter.method=ia3"),
        ({"save_as_lora": 4}, "it is LoRA already"),
        ({"save_as_lora": 4, "method": "oft"}, "PEFT cannot turn it into LoRA"),
        ({"method": "vra"}, "did you mean 'vera'"),
        ({"method": "zzz"}, "`peftkit methods` lists them"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        AdapterConfig(**given)


@pytest.mark.parametrize(
    ("short", "name"),
    [("prompt", "prompt_tuning"), ("prefix", "prefix_tuning"), ("P-Tuning", "p_tuning"), ("qlora", "lora")],
)
def test_the_names_that_people_use_are_understood(short, name):
    assert AdapterConfig(method=short).method == name
