"""A LoRA layer as one operation, against the formula in float64 and against PEFT's own layer."""

import pytest
import torch

from peftkit.kernels.lora_linear import FusedLora, complaint, dequantized, held

from .layers import IN, OUT, gradients, lora_layer

ROWS = (2, 5)


def _numbers(size, dtype=torch.float32):
    torch.manual_seed(1)
    return torch.randn(*ROWS, size).to(dtype)


@pytest.mark.parametrize("base", ["none", "nf4", "int8"])
def test_forward_and_gradients_are_those_of_the_formula_in_float64(base):
    layer = lora_layer(base)
    x, above = _numbers(IN), _numbers(OUT)
    weight = dequantized(layer.base_layer, torch.float32).double()
    first, second = layer.lora_A["default"].weight.double(), layer.lora_B["default"].weight.double()
    scaling = layer.scaling["default"]
    exact = x.double() @ weight.t() + layer.base_layer.bias.double() + scaling * x.double() @ first.t() @ second.t()
    flat, flat_above = x.double().flatten(0, 1), above.double().flatten(0, 1)
    expected = {
        "x": above.double() @ (weight + scaling * second @ first),
        "lora_A.default.weight": scaling * (flat_above @ second).t() @ flat,
        "lora_B.default.weight": scaling * flat_above.t() @ (flat @ first.t()),
    }
    FusedLora(layer)
    output, found = gradients(layer, x, above)
    # int8 layers of bitsandbytes round their input to 8 bits; nothing else here rounds.
    assert torch.allclose(output.double(), exact, atol=0.05 if base == "int8" else 1e-5)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name].double() - value).norm() < 1e-6 * value.norm(), name


def test_gradients_are_those_of_finite_differences():
    layer = lora_layer("none", dtype=torch.float64).double()
    FusedLora(layer)
    x = _numbers(IN, torch.float64)[:, :2].requires_grad_()
    trained = [value for value in layer.parameters() if value.requires_grad]
    assert torch.autograd.gradcheck(lambda *_: layer(x), (x, *trained), fast_mode=True)


@pytest.mark.parametrize("base", ["none", "nf4", "int8"])
@pytest.mark.parametrize("lower", [None, torch.bfloat16])
def test_it_does_what_peft_does(base, lower):
    layer = lora_layer(base, dtype=lower or torch.float32)
    x, above = _numbers(IN, lower or torch.float32), _numbers(OUT)
    with torch.autocast("cpu", dtype=lower or torch.bfloat16, enabled=lower is not None):
        output, found = gradients(layer, x, above)
        fused = FusedLora(layer)
        own_output, own = gradients(layer, x, above)
        fused.undo()
        assert "forward" not in vars(layer)
    assert own_output.dtype == output.dtype
    near = {"rtol": 1e-5, "atol": 1e-5} if lower is None else {"rtol": 0.02, "atol": 0.05}
    assert torch.allclose(own_output.float(), output.float(), **near)
    for name, value in found.items():
        assert own[name].dtype == value.dtype
        error = (own[name].double() - value.double()).norm() / value.double().norm()
        assert error < (1e-5 if lower is None else 0.01), name


def test_in_bfloat16_its_gradients_are_no_further_from_float32_than_pefts():
    layer = lora_layer("nf4", dtype=torch.bfloat16)
    x, above = _numbers(IN, torch.bfloat16), _numbers(OUT)
    exact = gradients(lora_layer("nf4"), x.float(), above)[1]

    def error(found):
        return sum(((found[name].float() - value).norm() / value.norm()).item() for name, value in exact.items())

    with torch.autocast("cpu", dtype=torch.bfloat16):
        of_peft = error(gradients(layer, x, above)[1])
        FusedLora(layer)
        assert error(gradients(layer, x, above)[1]) < 1.1 * of_peft


def test_dropout_is_that_of_peft_with_the_same_random_numbers_and_right_backwards():
    layer = lora_layer("none", dtype=torch.float64, lora_dropout=0.5).double()
    x, above = _numbers(IN, torch.float64), _numbers(OUT, torch.float64)
    torch.manual_seed(5)
    kept = torch.native_dropout(x, 0.5, True)[0]
    flat = kept.flatten(0, 1)
    first, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    scaling, base = layer.scaling["default"], layer.base_layer
    through = scaling * above @ second
    FusedLora(layer)
    torch.manual_seed(5)
    output, found = gradients(layer, x, above)
    assert torch.allclose(output, base(x) + scaling * kept @ first.t() @ second.t())
    assert torch.allclose(found["x"], above @ base.weight + (through @ first) * (kept != 0) * 2)
    assert torch.allclose(found["lora_A.default.weight"], through.flatten(0, 1).t() @ flat)
    layer.eval()
    assert torch.allclose(layer(x), base(x) + scaling * x @ first.t() @ second.t())


def test_held_weights_are_used_and_given_back():
    layer = lora_layer("nf4")
    fused = FusedLora(layer)
    x, above = _numbers(IN), _numbers(OUT)
    alone = gradients(layer, x, above)
    with held([fused], torch.float32):
        assert fused.dense.shape == (OUT, IN)
        together = gradients(layer, x, above)
        fused.dense.zero_()
        assert not torch.allclose(layer(x), alone[0], atol=0.1)
    assert fused.dense is None
    assert torch.allclose(together[0], alone[0], atol=1e-5)
    assert torch.allclose(together[1]["x"], alone[1]["x"], atol=1e-5)


def test_without_its_adapter_a_layer_answers_as_its_base():
    layer = lora_layer("nf4")
    x = _numbers(IN)
    FusedLora(layer)
    adapted = layer(x)
    layer.enable_adapters(False)
    assert torch.equal(layer(x), layer.base_layer(x))
    assert not torch.allclose(layer(x), adapted, atol=0.1)


def test_it_keeps_its_input_and_nothing_else_of_that_size():
    layer = lora_layer("none")
    FusedLora(layer)
    kept = []
    x = torch.randn(40, IN, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        layer(x)
    wide = [one for one in kept if one.shape[0] == 40 and one.shape[1] > 8]
    assert [one.data_ptr() for one in wide] == [x.data_ptr()]


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"use_dora": True}, "Dora"), ({"lora_bias": True}, "bias"), ({}, None), ({"use_rslora": True}, None)],
)
def test_what_it_cannot_run_is_said(settings, why):
    found = complaint(lora_layer("none", **settings))
    assert found is None if why is None else why in found


@pytest.mark.parametrize("base", ["none", "nf4"])
def test_a_small_update_is_not_lost_in_bfloat16(base):
    """How much of the update is in the outputs, and in the gradients: 1 in exact numbers, much less in PEFT's order."""
    layer = lora_layer(base, dtype=torch.bfloat16)
    first, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        second.copy_(second.sign() * 1e-4)
    torch.manual_seed(2)
    x, above = torch.randn(2000, IN).bfloat16(), torch.randn(2000, OUT).bfloat16()
    weight, bias = dequantized(layer.base_layer, torch.bfloat16).double(), layer.base_layer.bias.double()
    update = layer.scaling["default"] * second.double() @ first.double()

    def share_kept():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output, found = gradients(layer, x, above)
        plain, change = x.double() @ weight.t() + bias, x.double() @ update.t()
        slopes, more = above.double() @ weight, above.double() @ update
        return [
            ((got.double() - without) * of).sum().item() / of.square().sum().item()
            for got, without, of in ((output, plain, change), (found["x"], slopes, more))
        ]

    of_peft = share_kept()
    FusedLora(layer)
    own = share_kept()
    assert max(of_peft) < 0.3
    assert own == pytest.approx([1, 1], abs=0.1), of_peft
