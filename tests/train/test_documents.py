"""Packed texts: the same gradients as unpacked, and no way in which one sees another."""

import pytest
import torch
import transformers
from huggingface_hub import constants
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from peftkit.data.examples import Example
from peftkit.errors import ConfigError, MissingDependencyError
from peftkit.kernels import attention, varlen
from peftkit.train import documents
from peftkit.train.documents import TOKENS, require_apart

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
@pytest.mark.parametrize("attention", ["sdpa", "varlen"])
def test_prompts_that_drop_the_positions_are_refused(tmp_path, method, attention):
    adapter = {"method": method, "r": None, "extra": {"num_virtual_tokens": 4}}
    model = {"attn_implementation": attention}
    said = (
        r"the attention '\w+', (a text would see the one before it|packed texts are refused: (shape|split_with_sizes))"
    )
    with pytest.raises(ConfigError, match=said):
        Run(tmp_path, "causal", configuration("causal", adapter=adapter, model=model, **PACKED), _examples())


def test_packing_that_wraps_texts_is_refused(tmp_path):
    config = configuration("causal", extra={"packing_strategy": "wrapped"}, **PACKED)
    with pytest.raises(ConfigError, match="wrapped lets texts see each other"):
        Run(tmp_path, "causal", config, _examples())


SIZES = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = {"intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
LAYERS = ["sliding_attention", "full_attention"]
APART = {
    "window of every layer": lambda: transformers.MistralConfig(**SIZES, **HEADS, sliding_window=4),
    "window of every other layer": lambda: transformers.Gemma3TextConfig(
        **SIZES, **HEADS, head_dim=8, sliding_window=4, layer_types=LAYERS
    ),
}
TOGETHER = {
    "state space": (lambda: transformers.MambaConfig(**SIZES, state_size=4), "a text would see the one before it"),
    "recurrent layers": (
        lambda: transformers.RecurrentGemmaConfig(**SIZES, **HEADS, head_dim=8, lru_width=32),
        "a text would see the one before it",
    ),
    "convolution": (
        lambda: transformers.Lfm2Config(**SIZES, **HEADS, layer_types=["conv", "full_attention"]),
        "packed texts are refused: `causal_conv1d_fn` can't keep packed sequences apart",
    ),
}


def _of(settings, attention=None):
    varlen.register()
    torch.manual_seed(0)
    asked = {} if attention is None else {"attn_implementation": attention}
    model = transformers.AutoModelForCausalLM.from_config(settings, **asked).float()
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.normal_(std=0.3)  # a fresh model hardly looks at what stands before
    return model


@pytest.mark.parametrize("kind", APART)
@pytest.mark.parametrize("attention", ["eager", "sdpa", "varlen", "flex_attention"])
def test_attention_with_a_window_is_taken(kind, attention):
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    model = _of(APART[kind](), attention)
    if attention == "flex_attention":
        whole, right = (documents._influence(one, collate, [2 * TOKENS]) for one in (model, _of(APART[kind](), "sdpa")))
        if whole != pytest.approx(right, rel=1e-3):
            # torch 2.13 does so on an AMD Zen 3; packing is refused there, as numbers that are none prove nothing.
            pytest.skip("torch's flex_attention computes wrong numbers on this processor")
    require_apart(model, collate)


@pytest.mark.parametrize("kind", TOGETHER)
def test_layers_that_carry_a_state_over_are_refused(kind):
    settings, said = TOGETHER[kind]
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    with pytest.raises(ConfigError, match=said):
        require_apart(_of(settings()), collate)


def test_packed_texts_take_attention_without_a_mask_unless_another_is_asked_for(tmp_path):
    for given, taken in ((None, "varlen"), ("sdpa", "sdpa")):
        model = {} if given is None else {"attn_implementation": given}
        run = Run(tmp_path / taken, "causal", configuration("causal", model=model, **PACKED), _examples())
        assert run.model.config._attn_implementation == taken
    assert Run(tmp_path, "causal", configuration("causal")).model.config._attn_implementation == "sdpa"


def test_a_kernel_of_the_hub_is_taken_where_it_is_already(tmp_path, monkeypatch):
    config, settings = configuration("causal", **PACKED), transformers.LlamaConfig()
    found = tmp_path / "models--kernels-community--flash-attn2" / "snapshots" / "0123"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(attention.machine, "device", lambda: "cuda")
    monkeypatch.setattr(attention, "find_spec", lambda name: None if name == "flash_attn" else name)
    assert attention.attention_of(config, settings) == "varlen"
    found.mkdir(parents=True)
    assert attention.attention_of(config, settings) == "kernels-community/flash-attn2"
    monkeypatch.setattr(attention, "find_spec", lambda name: None)
    assert attention.attention_of(config, settings) == "varlen"
    asked = configuration("causal", model={"attn_implementation": "kernels-community/flash-attn2"})
    with pytest.raises(MissingDependencyError, match="needs the package kernels, which is not here"):
        attention.attention_of(asked, settings)
    assert attention.traced_attention(asked, settings) == "varlen"
    monkeypatch.setattr(attention.machine, "device", lambda: "cpu")
    with pytest.raises(ConfigError, match="needs a CUDA GPU; leave it out, or take sdpa or varlen"):
        attention.attention_of(asked, settings)
