"""The plan counts the pieces: as a processor measures them, over depths, in main memory, and as advice."""

import pytest
import torch

from peftkit.config import RunConfig
from peftkit.model.load import find_model, settings_of
from peftkit.plan.cards import GIB, find_card
from peftkit.plan.changes import faster, smaller
from peftkit.plan.forecast import Subject
from peftkit.plan.measure import measure_run
from peftkit.plan.memory import HOST_LIBRARIES, memory_of
from peftkit.plan.outline import outline, outline_of
from peftkit.plan.shapes import known_settings
from peftkit.plan.step import Batch, Device, trace_step
from peftkit.plan.workload import Workload

from ..models import tiny

ON = {"gradient_checkpointing": True}
LONG = Batch(1, 8192, 8192)


def _config(quantization="none", adapter=None, path="meta-llama/Llama-3.1-8B", **train):
    return RunConfig(
        recipe="completion",
        task={"kind": "completion"},
        model={"path": path, "quantization": quantization, "dtype": "float32"},
        adapter={"r": 4, **(adapter or {})},
        train={"max_steps": 100, "max_length": 8192, **train},
    )


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize(
    "settings",
    [
        {"fused_lora": True},
        {"fused_lora": True, "adapter": {"lora_dropout": 0.1}},
        {**ON, "tiled_mlp": 32},
        {"recompute_pointwise": True},
        {**ON, "checkpoint_layers": 1},
    ],
)
def test_a_processor_measures_what_is_forecast(quantization, settings):
    batch = Batch(2, 96, 20)
    config = _config(quantization, path=str(tiny("llama")), per_device_train_batch_size=2, **settings)
    traced = trace_step(settings_of(find_model(config.model)), config, "causal", batch, Device("cpu", torch.float32))
    states = 28_000  # five random states (25,040 bytes) and counters, which a run keeps in main memory, not traced
    measured = measure_run(config, "causal", batch).peak
    assert traced.trace.peak == pytest.approx(measured, rel=0.02, abs=states)


def test_a_share_of_the_layers_is_traced_from_shallow_models():
    settings = known_settings("TinyLlama/TinyLlama-1.1B-v1.0")
    config = _config("nf4", **ON, checkpoint_layers=11)
    device, batch = Device("cuda", torch.bfloat16), Batch(1, 1024, 1024)
    found = outline(settings, config, "causal", batch, device)
    whole = outline_of(trace_step(settings, config, "causal", batch, device))
    assert found.peak == pytest.approx(whole.peak, rel=0.005)


def test_what_leaves_the_card_is_counted_in_main_memory():
    settings = known_settings("TinyLlama/TinyLlama-1.1B-v1.0")
    card, device = find_card("RTX 4090"), Device("cuda", torch.bfloat16)
    kept, moved = (
        memory_of(outline(settings, config, "causal", LONG, device), config, card)
        for config in (_config("nf4", **ON), _config("nf4", **ON, offload_activations=True))
    )
    checkpoints = settings.num_hidden_layers * 8192 * settings.hidden_size * 2
    assert moved.host - HOST_LIBRARIES == checkpoints
    assert kept.host == HOST_LIBRARIES
    assert kept.training - moved.training > 0.8 * checkpoints > 0.5 * GIB


def _subject(**train):
    load = Workload(8192, 8192, 8192.0, even=True, prompt=8192)
    return Subject(known_settings("TinyLlama/TinyLlama-1.1B-v1.0"), _config("nf4", **train), "causal", load)


def test_they_are_advised():
    words = [one.words for one in smaller(_subject())]
    assert "train.gradient_checkpointing=true train.tiled_mlp=4096" in words
    assert "train.gradient_checkpointing=true train.offload_activations=true" in words
    words = [one.words for one in smaller(_subject(**ON, tiled_mlp=4096, checkpoint_layers=11))]
    assert "train.checkpoint_layers=22" in words
    assert "train.offload_activations=true" in words
    assert not any("tiled_mlp" in one for one in words)
    faster_ones = [one.words for one in faster(_subject(**ON))]
    assert [one for one in faster_ones if "checkpoint_layers" in one] == [
        f"train.checkpoint_layers={layers} train.recompute_pointwise=true" for layers in (5, 11, 16)
    ]
    assert "train.gradient_checkpointing=false train.recompute_pointwise=true" in faster_ones
