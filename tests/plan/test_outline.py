"""Deep models are traced at two depths, and long rows at two lengths; both must agree with a direct trace."""

import pytest
import torch

from peftkit import machine
from peftkit.config import RunConfig
from peftkit.plan import stand_ins
from peftkit.plan.judging import Judged
from peftkit.plan.outline import outline, outline_of, shallow, shallow_depths
from peftkit.plan.remembered import Remembered
from peftkit.plan.shapes import known_settings
from peftkit.plan.step import Batch, Device, trace_step

machine.quiet_libraries()
GPU = Device("cuda", torch.bfloat16)
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def small(name, layers, **more):
    """A well-known model, narrow and of so many layers."""
    settings = known_settings(name)
    for key, value in {**SMALL, "vocab_size": 512, **more}.items():
        setattr(settings, key, value)
    return shallow(settings, layers)


def config_of(**train):
    return RunConfig(
        recipe="sentiment",
        task={"kind": "classification", "labels": ("a", "b")},
        model={"quantization": "nf4"},
        adapter={"r": 8},
        train={"max_steps": 100, "per_device_train_batch_size": 2, "max_length": 1 << 15, **train},
    )


EVERY_SECOND = {
    "gradient_checkpointing": True,
    "extra": {"activation_checkpointing_kwargs": {"every_n_layers": 2}},
}


@pytest.mark.parametrize(
    ("name", "train", "depths"),
    [
        ("meta-llama/Llama-3.1-8B", {}, (3, 5)),
        ("Qwen/Qwen3-8B", {"gradient_checkpointing": True}, (3, 5)),
        ("Qwen/Qwen3-8B", EVERY_SECOND, (4, 6)),
        ("google/gemma-2-2b", {"gradient_checkpointing": True}, (4, 6)),  # every second layer sees a window
    ],
)
def test_two_shallow_traces_are_one_deep_one(name, train, depths) -> None:
    settings, config = small(name, 14), config_of(**train)
    assert shallow_depths(settings, config) == depths
    batch, judged = Batch(2, 128, 100), Judged(4, 96, 8)
    found = outline(settings, config, "causal", batch, GPU, judged)
    direct = outline_of(trace_step(settings, config, "causal", batch, GPU, judged))
    assert {name: top.bytes for name, top in found.tops.items()} == {
        name: top.bytes for name, top in direct.tops.items()
    }
    assert found.components == direct.components
    assert {name: top.place for name, top in found.tops.items()} == {
        name: top.place for name, top in direct.tops.items()
    }
    assert found.work.flops() == direct.work.flops()
    assert found.work.bytes() == pytest.approx(direct.work.bytes(), rel=1e-3)
    assert (found.trainable, found.frozen) == (direct.trainable, direct.frozen)
    assert found.taken.training == pytest.approx(direct.taken.training, rel=0.05, abs=4 << 20)


def test_a_model_that_is_not_deep_is_traced_as_it_is() -> None:
    assert shallow_depths(small("meta-llama/Llama-3.1-8B", 8), config_of()) is None
    assert shallow_depths(small("meta-llama/Llama-3.1-8B", 9), config_of()) == (3, 5)
    assert shallow_depths(known_settings("t5-small"), config_of()) is None


@pytest.mark.parametrize("train", [{}, {"gradient_checkpointing": True}])
def test_two_lengths_give_a_third(train) -> None:
    """Memory of attention without padding grows with the length: a line, once the head's tiles are full."""
    settings, config = small("meta-llama/Llama-3.1-8B", 4), config_of(**train)

    def peak(length: int) -> int:
        return outline(settings, config, "causal", Batch(2, length, length), GPU).peak

    first, second, third = peak(4096), peak(8192), peak(16384)
    assert second + 2 * (second - first) == pytest.approx(third, rel=0.01)


@pytest.mark.parametrize(
    "extra",
    [{"activation_offloading": True}, {"activation_checkpointing_kwargs": {"offload": True}}],
)
def test_activations_can_wait_in_main_memory(extra) -> None:
    """What recomputation saves, the input of each layer, is then in main memory and not on the card."""
    settings, batch = small("meta-llama/Llama-3.1-8B", 12), Batch(2, 512, 500)
    here = outline(settings, config_of(gradient_checkpointing=True), "causal", batch, GPU)
    there = outline(settings, config_of(gradient_checkpointing=True, extra=extra), "causal", batch, GPU)
    inputs = 12 * batch.rows * batch.length * settings.hidden_size * 2
    assert here.moved == 0
    assert inputs <= there.moved < 3 * inputs
    assert there.tops["forward pass"].bytes < here.tops["forward pass"].bytes


@pytest.mark.parametrize(
    ("name", "train", "device"),
    [
        ("meta-llama/Llama-3.1-8B", {}, GPU),
        ("google/gemma-2-2b", {"gradient_checkpointing": True}, Device("cpu", torch.float32)),
        ("Qwen/Qwen3-8B", EVERY_SECOND, GPU),
    ],
)
def test_a_trace_with_answers_of_before_is_the_same(name, train, device, monkeypatch) -> None:
    def trace():
        found = trace_step(small(name, 3), config_of(**train), "causal", Batch(2, 128, 100), device, Judged(4, 96, 8))
        blocks = [(one.size, one.born, one.died, one.kind, one.phase) for one in found.trace.blocks]
        return blocks, found.trace.events, found.trace.tops, found.work.of

    monkeypatch.setattr(stand_ins, "_REMEMBERED", Remembered())
    first, second = trace(), trace()
    monkeypatch.setattr(stand_ins, "_REMEMBERED", lambda func, args, kwargs: func(*args, **kwargs))
    assert first == second == trace()
