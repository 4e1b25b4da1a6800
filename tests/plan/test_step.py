"""A step traced without memory has the peak of the same step on real tensors, by the same counting.

The bar is 5%; what is seen here is below 2.2%, mostly far below, so 2.5% is asked for.
"""

import pytest
import torch

from peftkit import machine
from peftkit.config import RunConfig
from peftkit.model.load import find_model, settings_of
from peftkit.plan.build import build_model
from peftkit.plan.measure import materialize, measure_random, measure_run
from peftkit.plan.step import Batch, Device, trace_step

from ..models import tiny

torch.set_num_threads(1)
machine.quiet_libraries()

ROWS = Batch(4, 64, 40)
PADDED = Batch(4, 64, 5, padded=True)
CHECKPOINTING = {"gradient_checkpointing": True}
EVERY_SECOND = {**CHECKPOINTING, "extra": {"activation_checkpointing_kwargs": {"every_n_layers": 2}}}
LABELS = ("negative", "positive")


def config_of(
    name, batch, *, quantization="none", dtype="float32", kind="generation", task=None, adapter=None, **train
):
    return RunConfig(
        recipe="sentiment",
        task={"kind": kind, "labels": LABELS, **(task or {})},
        model={"path": str(tiny(name)), "quantization": quantization, "dtype": dtype},
        adapter={"r": 4, **(adapter or {})},
        train={"max_steps": 100, "per_device_train_batch_size": batch.rows, **train},
    )


def forecast(config, family, batch):
    settings = settings_of(find_model(config.model))
    return trace_step(settings, config, family, batch, Device("cpu", getattr(torch, config.model.dtype)))


@pytest.mark.parametrize(
    ("name", "family", "batch", "settings"),
    [
        ("llama", "causal", ROWS, {}),
        ("llama", "causal", PADDED, {"quantization": "nf4"}),
        ("llama", "causal", ROWS, {"quantization": "int8", **CHECKPOINTING}),
        ("llama", "causal", PADDED, {"quantization": "nf4", "dtype": "bfloat16", **CHECKPOINTING}),
        ("llama", "causal", ROWS, {"dtype": "bfloat16", "adapter": {"use_dora": True}}),
        ("llama", "causal", ROWS, {"quantization": "nf4", "adapter": {"use_dora": True}, **EVERY_SECOND}),
        ("llama", "causal", ROWS, {"adapter": {"r": 16, "use_rslora": True, "lora_dropout": 0.1}}),
        ("llama", "causal", Batch(2, 40, 20), {"packing": True, "max_length": 100}),
        ("llama", "causal", Batch(1, 100, 3), {"gradient_accumulation_steps": 3}),
        ("llama", "causal", PADDED, {"label_smoothing": 0.1}),
        ("llama", "causal", ROWS, {"loss": "focal", "optim": "adamw_8bit"}),
        ("llama", "causal", ROWS, {"adapter": {"method": "adalora"}, "neftune_noise_alpha": 5}),
        ("llama", "causal", ROWS, {"adapter": {"method": "ia3", "r": None}, "optim": "muon"}),
        ("llama", "head", PADDED, {"kind": "classification", "task": {"answer": "head"}, "quantization": "int8"}),
        ("bert", "head", PADDED, {"kind": "classification", "quantization": "nf4"}),
        ("deberta-v2", "head", PADDED, {"kind": "classification", "task": {"multi_label": True}}),
        ("modernbert", "head", PADDED, {"kind": "regression", "dtype": "bfloat16"}),
        ("t5", "seq2seq", PADDED, {}),
        ("bart", "seq2seq", PADDED, {"neftune_noise_alpha": 5}),
    ],
)
def test_the_forecast_peak_is_the_measured_one(name, family, batch, settings) -> None:
    config = config_of(name, batch, **settings)
    states = 28_000  # five random states (25,040 bytes) and counters, which a run keeps in main memory, not traced
    measured = measure_run(config, family, batch).peak
    assert forecast(config, family, batch).trace.peak == pytest.approx(measured, rel=0.025, abs=states)


def test_the_phases_and_the_work_of_a_step() -> None:
    config = config_of("llama", ROWS, **CHECKPOINTING)
    traced = forecast(config, "causal", ROWS)
    assert set(traced.trace.tops) >= {"forward pass", "loss head", "loss head, backwards", "backward pass", "optimizer"}
    plain = forecast(config_of("llama", ROWS), "causal", ROWS)
    linear = 2 * 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64)  # parameters of both layers' products, twice
    tokens = ROWS.rows * ROWS.length
    assert plain.work.flops("forward pass") > linear * tokens
    # The whole forward pass once more; and the first layer's inputs get a gradient, which without they need not.
    forward = plain.work.flops("forward pass")
    assert forward < traced.work.flops() - plain.work.flops() < 1.15 * forward


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_random_weights_take_what_real_ones_take(quantization) -> None:
    config = config_of("llama", ROWS, quantization=quantization)
    settings, device = settings_of(find_model(config.model)), Device("cpu", torch.float32)
    random = measure_random(settings, config, "causal", ROWS, device)
    assert random.peak == pytest.approx(measure_run(config, "causal", ROWS).peak, rel=0.02)
    assert random.reserved is None
    assert random.seconds > 0
    model = build_model(settings, config, "causal", torch.float32)
    materialize(model, "cpu")
    ids = torch.ones((1, 4), dtype=torch.int64)
    assert torch.isfinite(model(input_ids=ids).logits).all()


def test_a_trace_leaves_the_libraries_as_they_were() -> None:
    config = config_of("llama", ROWS, quantization="nf4")
    before = measure_run(config, "causal", ROWS).peak
    forecast(config, "causal", ROWS)
    with pytest.raises(AttributeError):
        trace_step(settings_of(find_model(config.model)), config, "causal", None, Device("cuda", torch.bfloat16))
    assert not torch.is_autocast_enabled("cpu")
    assert measure_run(config, "causal", ROWS).peak == before
