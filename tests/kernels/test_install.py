"""The pieces inside a run: the same losses, the model as it was afterwards, and what is refused."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from pydantic import ValidationError
from transformers import MixtralConfig, MixtralForCausalLM

from peftkit.config import TrainConfig
from peftkit.errors import ConfigError
from peftkit.kernels import dense_attention, install
from peftkit.kernels.install import Kernels
from peftkit.kernels.lora_linear import FusedLora
from peftkit.kernels.pointwise import Gated
from peftkit.kernels.tiles import Tiled

from ..train.families import Run, configuration

ON = {"gradient_checkpointing": True}
WAYS = {
    "LoRA layers as one operation": {"fused_lora": True},
    "tiles": {"tiled_mlp": 48, "fused_lora": False},
    "norms and activation functions recomputed": {"recompute_pointwise": True, "fused_lora": False},
    "the same beside recomputed layers": {**ON, "recompute_pointwise": True, "checkpoint_layers": 1},
    "half of the layers recomputed": {**ON, "checkpoint_layers": 1, "fused_lora": False},
    "attention kept": {**ON, "keep_attention": True},
    "attention kept beside tiles and checkpoints in main memory": {
        **ON,
        "keep_attention": True,
        "offload_activations": True,
        "tiled_mlp": 48,
    },
    "checkpoints in main memory": {**ON, "offload_activations": True, "fused_lora": False},
    "all": {**ON, "tiled_mlp": 48, "offload_activations": True, "checkpoint_layers": 1},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Losses of four steps with PEFT's own layers and nothing recomputed."""
    folder = tmp_path_factory.mktemp("plain")
    return Run(folder, "causal", configuration("causal", max_steps=4, fused_lora=False)).losses()


@pytest.mark.parametrize("way", WAYS)
def test_losses_are_those_of_the_libraries_own_layers(tmp_path, monkeypatch, plain, way):
    monkeypatch.setattr(install, "device_of", lambda model: "cuda")  # copies on a processor too
    monkeypatch.setattr(install.Offload.__init__, "__defaults__", (1,))
    run = Run(tmp_path, "causal", configuration("causal", max_steps=4, **WAYS[way]))
    assert run.losses() == pytest.approx(plain, rel=1e-6)
    offload = run.trainer.kernels.offload
    assert (offload is not None and offload.most > 0) == WAYS[way].get("offload_activations", False)


def test_the_pieces_are_there_in_training_alone(tmp_path):
    run = Run(tmp_path, "causal", configuration("causal", **WAYS["all"], model={"quantization": "nf4"}))
    kernels = run.trainer.kernels
    run.model.gradient_checkpointing_enable()
    before = {name: dict(vars(one)) for name, one in run.model.named_modules()}
    kernels.install()
    now = {name: type(vars(one).get("forward")) for name, one in run.model.named_modules()}
    names = [name for name, one in run.model.named_modules() if isinstance(one, LoraLayer)]
    assert [name for name, kind in now.items() if kind is FusedLora] == names
    assert len(names) == 14
    assert sorted(name.split(".")[-1] for name, kind in now.items() if kind is Tiled) == sorted(
        [*2 * ["mlp", "input_layernorm", "post_attention_layernorm"], "norm"]
    )
    assert [one.gradient_checkpointing for one in kernels.layers] == [True, False]
    kernels.remove()
    assert all(vars(one) == before[name] for name, one in run.model.named_modules())


def test_activation_functions_are_run_again_in_the_layers_that_are_not(tmp_path):
    ways = {**ON, "checkpoint_layers": 1, "recompute_pointwise": True}
    run = Run(tmp_path, "causal", configuration("causal", **ways))
    run.model.gradient_checkpointing_enable()
    run.trainer.kernels.install()
    feeds = [type(vars(one).get("forward")) for one in run.trainer.kernels.feeds]
    assert feeds == [type(None), Gated]
    assert [type(vars(one)["forward"]) for one in run.trainer.kernels.norms] == 5 * [Tiled]


@pytest.mark.parametrize("family", ["head", "seq2seq"])
def test_other_families_take_what_fits_them(tmp_path, family):
    own = Run(tmp_path / "a", family, configuration(family, max_steps=3, fused_lora=False)).losses()
    run = Run(tmp_path / "b", family, configuration(family, max_steps=3))
    assert run.trainer.kernels.lora
    assert run.losses() == pytest.approx(own, rel=1e-5)
    with pytest.raises(ConfigError, match=r"train\.tiled_mlp is for models with one dense feed-forward layer"):
        Run(tmp_path / "c", family, configuration(family, tiled_mlp=16))


def test_a_processor_attends_densely_in_training_alone(tmp_path, monkeypatch):
    called = []
    original = dense_attention._Dense.apply
    monkeypatch.setattr(dense_attention._Dense, "apply", lambda *given: called.append(1) or original(*given))
    losses = {}
    for asked in ("sdpa", None):
        model = {"dtype": "bfloat16", "attn_implementation": asked}
        run = Run(tmp_path / str(asked), "causal", configuration("causal", max_steps=3, model=model))
        losses[asked] = run.losses()
        assert run.model.get_base_model().config._attn_implementation == "sdpa"
        assert bool(called) == (asked is None)
    assert losses[None] == pytest.approx(losses["sdpa"], rel=0.02)


def test_an_adapter_that_cannot_be_one_operation_keeps_its_own_unless_that_is_asked_for(tmp_path):
    run = Run(tmp_path, "causal", configuration("causal", adapter={"use_dora": True}))
    assert run.trainer.kernels.lora == []
    with pytest.raises(ConfigError, match=r"fused_lora=true is for plain LoRA layers, and '.*q_proj' cannot .* Dora"):
        Run(tmp_path, "causal", configuration("causal", adapter={"use_dora": True}, fused_lora=True))
    with pytest.raises(ConfigError, match=r"the adapter is not LoRA; leave it out"):
        Run(tmp_path, "causal", configuration("causal", adapter={"method": "ia3", "r": None}, fused_lora=True))


def test_experts_are_refused(tmp_path):
    run = Run(tmp_path, "causal", configuration("causal"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    experts = MixtralForCausalLM(MixtralConfig(vocab_size=20, num_key_value_heads=2, num_local_experts=2, **sizes))
    run.model.base_model.model = experts
    with pytest.raises(ConfigError, match="MixtralForCausalLM has others"):
        Kernels(run.model, configuration("causal", tiled_mlp=16))


def test_lora_on_experts_is_left_to_peft_and_not_tiled():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    base = MixtralForCausalLM(MixtralConfig(vocab_size=20, num_key_value_heads=2, num_local_experts=2, **sizes))
    on_experts = LoraConfig(r=2, target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj"])
    model = get_peft_model(base, on_experts)
    names = [name for name, one in model.named_modules() if isinstance(one, LoraLayer)]
    assert sorted(name.split(".")[-1] for name in names) == ["experts", "q_proj"]
    fused = Kernels(model, configuration("causal")).lora
    assert [type(one).__name__ for one in fused] == ["Linear"]
    with pytest.raises(ConfigError, match=r"fused_lora=true is for plain LoRA layers, and '.*experts' cannot"):
        Kernels(model, configuration("causal", fused_lora=True))
    for key, value in (("tiled_mlp", 16), ("recompute_pointwise", True)):
        with pytest.raises(ConfigError, match=f"train.{key} is for models with one dense feed-forward layer"):
            Kernels(model, configuration("causal", **{key: value}))


@pytest.mark.parametrize(
    "settings",
    [{"checkpoint_layers": 4}, {"checkpoint_layers": "auto"}, {"offload_activations": True}, {"keep_attention": True}],
)
def test_what_recomputing_needs_is_said(settings):
    with pytest.raises(ValidationError, match=f"{next(iter(settings))} means nothing without train.gradient_checkp"):
        TrainConfig(**settings)
    assert TrainConfig(**settings, gradient_checkpointing=True)
    assert TrainConfig(**settings, extra={"activation_checkpointing": True})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"compile_layers": True}, {"liger_kernels": True}),
        ({"compile_layers": True}, {"tiled_mlp": 64}),
        ({"compile_layers": True}, {"keep_attention": True, **ON}),
        ({"liger_kernels": True}, {"recompute_pointwise": True}),
    ],
)
def test_a_layer_is_changed_in_one_way(one, other):
    with pytest.raises(ValidationError, match="change the same parts of a layer; take one"):
        TrainConfig(**one, **other)
    assert TrainConfig(**one)
    assert TrainConfig(**other)


def test_one_kind_of_offloading_is_enough():
    with pytest.raises(ValidationError, match=r"train\.extra\.activation_offloading; take one"):
        TrainConfig(**ON, offload_activations=True, extra={"activation_offloading": True})
