"""The forecast beside published figures.

torchtune's README (bfloat16, two rows packed at once, recomputation, compiled): peak memory allocated of QLoRA and LoRA
on an RTX 4090 and an A100. Its runs on the A100 also move activations to main memory, and hold more for their loss.
PEFT's comparison of methods on MetaMathQA (Llama-3.2-3B, bfloat16, four rows of at most 768 tokens, no recomputation):
largest memory reserved, and tokens per second, on an L40S. There the logits of the whole vocabulary are held; so they
are here with `train.label_smoothing`, which makes TRL's head do without its tiles.
"""

import pytest
import torch

from peftkit import machine
from peftkit.config import RunConfig
from peftkit.plan.cards import GIB, find_card
from peftkit.plan.outline import outline
from peftkit.plan.shapes import known_settings
from peftkit.plan.step import Batch, Device
from peftkit.plan.time import step_time

machine.quiet_libraries()
TORCHTUNE = {
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
ATTENTION = {"target_modules": ("q_proj", "v_proj")}
METAMATH = Batch(4, 768, 768, padded=True)
WHOLE_VOCABULARY = {"label_smoothing": 1e-6}


def forecast(name, batch, quantization, adapter, **train):
    settings = {"max_steps": 100, "per_device_train_batch_size": batch.rows, "max_length": batch.length, **train}
    config = RunConfig(
        recipe="sentiment",
        task={"kind": "generation"},
        model={"path": name, "quantization": quantization},
        adapter=adapter,
        train=settings,
    )
    return outline(known_settings(name), config, "causal", batch, Device("cuda", torch.bfloat16))


@pytest.mark.parametrize(
    ("name", "length", "quantization", "train", "published"),
    [
        ("meta-llama/Llama-3.1-8B", 2048, "nf4", {}, 7.4),
        ("meta-llama/Llama-3.1-8B", 2048, "none", {}, 16.2),
        ("meta-llama/Llama-3.2-3B", 4096, "nf4", {"optim": "adamw_8bit"}, 4.6),
        ("meta-llama/Llama-3.2-3B", 4096, "none", {"optim": "adamw_8bit"}, 8.5),
    ],
)
def test_torchtune(name, length, quantization, train, published) -> None:
    found = forecast(name, Batch(2, length, length), quantization, TORCHTUNE, gradient_checkpointing=True, **train)
    assert found.peak / GIB == pytest.approx(published, rel=0.1)


@pytest.mark.parametrize(
    ("adapter", "published"),
    [
        ({"r": 32, "lora_alpha": 64, **ATTENTION}, 20.8),
        ({"r": 64, "use_rslora": True, **ATTENTION}, 21.0),
        ({"r": 32, "use_dora": True, **ATTENTION}, 22.8),
        ({"method": "miss", "r": 64, **ATTENTION}, 18.9),
        ({"r": 10, "target_modules": ("gate_proj", "up_proj", "down_proj")}, 23.0),
    ],
)
def test_metamathqa(adapter, published) -> None:
    found = forecast("meta-llama/Llama-3.2-3B", METAMATH, "none", adapter, **WHOLE_VOCABULARY)
    assert found.taken.training / GIB == pytest.approx(published, rel=0.1)


def test_the_loss_head_is_what_metamathqa_has_more_than_a_run_here() -> None:
    adapter = {"r": 32, "lora_alpha": 64, **ATTENTION}
    whole = forecast("meta-llama/Llama-3.2-3B", METAMATH, "none", adapter, **WHOLE_VOCABULARY)
    tiled = forecast("meta-llama/Llama-3.2-3B", METAMATH, "none", adapter)
    logits = METAMATH.rows * METAMATH.length * 128_256
    more = whole.peak - tiled.peak
    # In the backward pass: logits in 16 bits, their log-probabilities and both gradients in 32.
    assert 10 * logits < more < 18 * logits
    assert tiled.peak / GIB < 0.8 * 20.8


def test_the_speed_of_metamathqa_lies_in_the_range() -> None:
    adapter = {"r": 32, "lora_alpha": 64, **ATTENTION}
    found = forecast("meta-llama/Llama-3.2-3B", METAMATH, "none", adapter, **WHOLE_VOCABULARY)
    step = step_time(found.work, find_card("L40S"), 2, 1, 1)
    tokens = METAMATH.rows * METAMATH.length
    assert tokens / step.high < 7049 < tokens / step.low
    assert tokens / step.middle == pytest.approx(7049, rel=0.25)
