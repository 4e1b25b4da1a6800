"""An evaluation before training must leave training as it is, and neither may touch the quantized weights.

bitsandbytes 0.50 repacks 4-bit weights at an evaluation where it finds a processor with AVX512-BF16. Here it believes
that every processor has it, so that these tests guard against the repacking everywhere.
"""

import contextlib
import hashlib

import bitsandbytes
import pytest
import torch

from peftkit.model import load

from ..stages import Stages

KINDS = ("none", "nf4", "fp4", "int8")


@pytest.fixture(autouse=True)
def _repacking_processor(monkeypatch):
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True)


def stages(small, quantization, dtype):
    words = ("train.per_device_train_batch_size=2", "train.gradient_accumulation_steps=1", "adapter.r=4")
    return Stages.of(
        [*small, f"model.quantization={quantization}", f"model.dtype={dtype}", "train.max_steps=3", *words]
    )


def frozen_hashes(model):
    """Return a hash of each weight of the base model, and for 4-bit ones of their scales."""
    held = {}
    for name, value in model.named_parameters():
        if "lora_" in name:
            continue
        name = name.removeprefix("base_model.model.").replace(".base_layer", "")
        held[name] = raw_hash(value.data)
        state = getattr(value, "quant_state", None)
        if state is not None:
            held |= {f"{name}.{part}": raw_hash(tensor) for part, tensor in state.as_dict(packed=True).items()}
    return held


def raw_hash(tensor):
    return hashlib.sha256(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", KINDS)
def test_an_evaluation_changes_neither_training_nor_the_frozen_weights(small, tmp_path, quantization, dtype):
    run = stages(small, quantization, dtype)
    loaded = frozen_hashes(run.base())

    alone = [line["loss"] for line in run.train(run.adapted(), tmp_path / "alone")]

    model = run.adapted()
    with model.disable_adapter():
        before = run.answers(model)
    evaluated = frozen_hashes(model)
    evaluated_first = [line["loss"] for line in run.train(model, tmp_path / "evaluated")]
    after = run.answers(model)

    assert len(alone) == 3
    assert evaluated_first == alone
    assert before != after
    assert evaluated == loaded
    assert frozen_hashes(model) == loaded


@pytest.mark.parametrize("quantization", KINDS)
def test_after_an_evaluation_the_gradient_reaches_the_first_layer(small, quantization):
    run = stages(small, quantization, "float32")
    model = run.adapted()
    run.answers(model)
    example = run.data.train[0]
    ids = torch.tensor([example.prompt_ids + example.completion_ids])
    model.train()(input_ids=ids, labels=ids).loss.backward()
    for name, value in model.named_parameters():
        if "layers.0" in name and "lora_B" in name:
            assert value.grad is not None, name
            assert value.grad.abs().max() > 0, name


@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
def test_bitsandbytes_still_has_the_switch_that_stops_the_repacking(small, quantization):
    run = stages(small, quantization, "float32")
    layers = quantized_layers(run.base())
    assert len(layers) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


def test_bitsandbytes_repacks_without_the_switch(small, monkeypatch):
    """When this fails, bitsandbytes has changed, and `keep_quantized_weights_in_place` may not be needed any more."""
    monkeypatch.setattr(load, "keep_quantized_weights_in_place", lambda model: None)
    run = stages(small, "nf4", "float32")
    layer = quantized_layers(run.base())[0]
    held = raw_hash(layer.weight.data)
    with torch.inference_mode(), contextlib.suppress(RuntimeError, NotImplementedError):  # no kernel elsewhere
        layer(torch.zeros(1, layer.in_features))
    assert raw_hash(layer.weight.data) != held


def quantized_layers(model):
    kinds = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    return [module for module in model.modules() if isinstance(module, kinds)]
