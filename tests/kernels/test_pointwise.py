"""A gated feed-forward layer that keeps two of its wide tensors, against the layer itself."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import GemmaConfig, GPT2Config, LlamaConfig, Phi3Config, Qwen3Config
from transformers.models.gemma.modeling_gemma import GemmaMLP
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.phi3.modeling_phi3 import Phi3MLP
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

from peftkit.kernels.lora_linear import FusedLora
from peftkit.kernels.pointwise import Gated, is_gated
from peftkit.plan.ledger import Ledger

SIZE, WIDE = 16, 40
SIZES = {"hidden_size": SIZE, "intermediate_size": WIDE, "num_attention_heads": 2, "num_key_value_heads": 2}
CONFIGS = {LlamaMLP: LlamaConfig, GemmaMLP: GemmaConfig, Qwen3MLP: Qwen3Config}


def _layer(kind, fused=True):
    torch.manual_seed(0)
    layer = kind(CONFIGS[kind](**SIZES)).double()
    targets = ["gate_proj", "up_proj", "down_proj"]
    inject_adapter_in_model(LoraConfig(r=2, target_modules=targets), layer)
    for name, value in layer.double().named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
        value.requires_grad_("lora_" in name)
    if fused:
        for name in targets:
            FusedLora(getattr(layer, name))
    return layer


def _hidden():
    torch.manual_seed(1)
    return torch.randn(2, 6, SIZE, dtype=torch.float64, requires_grad=True)


def _gradients(layer):
    hidden = _hidden()
    output = layer(hidden)
    trained = [value for value in layer.parameters() if value.requires_grad]
    return [output.detach(), *torch.autograd.grad(output.square().sum(), (hidden, *trained))]


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("fused", [True, False])
def test_output_and_gradients_are_those_of_the_layer(kind, fused):
    layer = _layer(kind, fused)
    own = _gradients(layer)
    gated = Gated(layer)
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(_gradients(layer), own, strict=True))
    gated.undo()
    assert "forward" not in vars(layer)


def test_gradients_are_those_of_finite_differences():
    layer = _layer(LlamaMLP)
    Gated(layer)
    trained = [value for value in layer.parameters() if value.requires_grad]
    assert torch.autograd.gradcheck(lambda *_: layer(hidden), (hidden := _hidden(), *trained), fast_mode=True)


def test_gate_and_up_are_the_only_wide_tensors_that_stay():
    layer = _layer(LlamaMLP)

    def staying():
        hidden = _hidden()
        with Ledger("cpu") as ledger:
            output = layer(hidden)
        wide = hidden.numel() // SIZE * WIDE * hidden.itemsize
        assert output.requires_grad
        return sum(one.size == wide and one.died is None for one in ledger.trace.blocks)

    assert staying() == 4
    Gated(layer)
    assert staying() == 2


def test_under_autocast_the_gradients_are_the_same():
    layer = _layer(LlamaMLP).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = _hidden().detach().bfloat16().requires_grad_()
        trained = [value for value in layer.parameters() if value.requires_grad]
        own = torch.autograd.grad(layer(hidden).float().square().sum(), (hidden, *trained))
        Gated(layer)
        found = torch.autograd.grad(layer(hidden).float().square().sum(), (hidden, *trained))
    assert all((a - b).norm() <= 0.01 * b.norm() for a, b in zip(found, own, strict=True))


def test_layers_of_another_formula_are_told_apart():
    assert all(is_gated(kind(config(**SIZES))) for kind, config in CONFIGS.items())
    assert not is_gated(GPT2MLP(WIDE, GPT2Config(n_embd=SIZE)))
    assert not is_gated(Phi3MLP(Phi3Config(**SIZES, pad_token_id=0)))

    class Scaled(LlamaMLP):
        def forward(self, x):
            x = x * 2
            return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))

    assert not is_gated(Scaled(LlamaConfig(**SIZES)))
