"""Packed texts: the same gradients as unpacked, and no way in which one sees another."""

import pytest
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from peftkit.data.examples import Example
from peftkit.errors import ConfigError

from ..stages import make_visible
from .families import Run, configuration

LENGTHS = (5, 9, 3, 12, 7)
PACKED = {"packing": True, "max_length": 128}


def _examples():
    torch.manual_seed(3)
    made = []
    for number, length in enumerate(LENGTHS):
        ids = torch.randint(4, 200, (length,)).tolist()
        made.append(Example(f"row {number}", {}, "", ids[:2], ids[2:], False))
    return made


def _gradients(folder, attention, **train):
    settings = {"model": {"attn_implementation": attention}, "per_device_train_batch_size": 5, **train}
    run = Run(folder, "causal", configuration("causal", group_by_length=False, **settings), _examples())
    make_visible(run.model)
    if run.trainer.args.gradient_checkpointing:
        run.model.gradient_checkpointing_enable()
    run.trainer.kernels.install()
    return run.trainer, run.gradients()


@pytest.mark.parametrize("attention", ["sdpa", "eager", "varlen"])
@pytest.mark.parametrize("more", [{}, {"gradient_checkpointing": True, "tiled_mlp": 16}])
def test_packed_and_unpacked_gradients_agree(tmp_path, attention, more):
    trainer, packed = _gradients(tmp_path / "a", attention, **PACKED, **more)
    assert len(trainer.train_dataset) == 1
    other, apart = _gradients(tmp_path / "b", attention)
    assert len(other.train_dataset) == len(LENGTHS)
    assert packed.keys() == apart.keys()
    for name, value in apart.items():
        assert (packed[name] - value).norm() < 1e-4 * value.norm(), name


@pytest.mark.parametrize("attention", ["sdpa", "eager", "varlen"])
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_attention_with_a_mask_of_blocks_is_taken(tmp_path, attention, quantization):
    model = {"attn_implementation": attention, "quantization": quantization}
    assert Run(tmp_path, "causal", configuration("causal", model=model, **PACKED), _examples()).trainer.padding_free


def test_attention_that_gets_no_mask_is_refused(tmp_path):
    AttentionInterface.register("without_mask", sdpa_attention_forward)
    with pytest.raises(ConfigError, match=r"the attention 'without_mask', a text would see the one before it"):
        _gradients(tmp_path, "without_mask", **PACKED)
    assert _gradients(tmp_path, "without_mask")[1]  # unpacked, it is right


@pytest.mark.parametrize("method", ["prefix_tuning", "prompt_tuning"])
def test_prompts_that_drop_the_positions_are_refused(tmp_path, method):
    adapter = {"method": method, "r": None, "extra": {"num_virtual_tokens": 4}}
    with pytest.raises(ConfigError, match=r"a text would see the one before it"):
        Run(tmp_path, "causal", configuration("causal", adapter=adapter, **PACKED), _examples())


def test_packing_that_wraps_texts_is_refused(tmp_path):
    config = configuration("causal", extra={"packing_strategy": "wrapped"}, **PACKED)
    with pytest.raises(ConfigError, match="wrapped lets texts see each other"):
        Run(tmp_path, "causal", config, _examples())
