"""A damaged merge fails the proof, and says which tensor is wrong."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from peftkit.errors import ModelError
from peftkit.merge.agreement import Outputs, agreement
from peftkit.merge.merge import verify

from .bases import adapter, base, load, merged, tensors

Q = "model.layers.0.self_attn.q_proj.weight"
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dense and a mixture model with their adapters, merged."""
    found = {}
    for name in ("llama", "mixtral"):
        folder = tmp_path_factory.mktemp(name)
        more = {"target_parameters": EXPERTS} if name == "mixtral" else {}
        one = adapter(base(name, "bfloat16"), folder / "a", "bfloat16", target_modules=["q_proj", "k_proj"], **more)
        merged(base(name, "bfloat16"), [one], folder / "out")
        found[name] = base(name, "bfloat16"), one, folder / "out"
    return found


def delta(one: Path, module: str) -> tuple[torch.Tensor, torch.Tensor]:
    state = tensors(one)
    return tuple(state[f"base_model.model.{module}.lora_{part}.weight"] for part in "AB")


def skip_a_layer(out, before, one):
    out[Q] = before[Q]


def double_the_scale(out, before, one):
    a, b = delta(one, Q.removesuffix(".weight"))
    out[Q] = (before[Q].float() + 2 * 9 / 4 * b @ a).bfloat16()


def transpose_the_factors(out, before, one):
    a, b = delta(one, Q.removesuffix(".weight"))
    out[Q] = (before[Q].float() + 9 / 4 * (b @ a).T).bfloat16()


def swap_two_experts(out, before, one):
    names = [f"model.layers.0.mlp.experts.{number}.gate_proj.weight" for number in (1, 2)]
    if names[0] not in out:
        names = [f"model.layers.0.block_sparse_moe.experts.{number}.w1.weight" for number in (1, 2)]
    changes = [out[name].float() - before[name].float() for name in names]
    for name, change in zip(names, reversed(changes), strict=True):
        out[name] = (before[name].float() + change).bfloat16()


def take_a_tensor_of_another_base(out, before, one):
    a, b = delta(one, Q.removesuffix(".weight"))
    other = before[Q].float() + torch.randn(before[Q].shape, generator=torch.Generator().manual_seed(5)) * 0.01
    out[Q] = (other + 9 / 4 * b @ a).bfloat16()


def take_a_copied_tensor_of_another_base(out, before, one):
    out["lm_head.weight"] = out["lm_head.weight"].clone()
    out["lm_head.weight"].view(torch.int16)[0, 0] ^= 1


def lose_a_tensor(out, before, one):
    del out["model.norm.weight"]


def add_a_tensor(out, before, one):
    out["more"] = torch.zeros(3)


def write_another_dtype(out, before, one):
    out[Q] = out[Q].float()


def spoil_one_value(out, before, one):
    out[Q] = out[Q].clone()
    out[Q][3, 4] += 0.5


def spoil_one_value_with_nan(out, before, one):
    out[Q] = out[Q].clone()
    out[Q][3, 4] = float("nan")


DAMAGES = {
    skip_a_layer: ("llama", f"'{Q}' has 0 times the change"),
    double_the_scale: ("llama", f"'{Q}' has 2 times the change"),
    transpose_the_factors: ("llama", f"'{Q}' has "),
    swap_two_experts: ("mixtral", "experts.1."),
    take_a_tensor_of_another_base: ("llama", f"'{Q}' has values that are"),
    take_a_copied_tensor_of_another_base: ("llama", "'lm_head.weight' is not the base's"),
    lose_a_tensor: ("llama", "'model.norm.weight' is not there"),
    add_a_tensor: ("llama", "'more' should not be there"),
    write_another_dtype: ("llama", "is F32 [32, 32] and should be BF16"),
    spoil_one_value: ("llama", "steps of its precision off"),
    spoil_one_value_with_nan: ("llama", f"'{Q}' has nan times the change"),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_a_damaged_merge_fails(damage, made, tmp_path):
    name, message = DAMAGES[damage]
    of, one, whole = made[name]
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    found = tensors(out)
    damage(found, tensors(of), one)
    save_file(found, out / "model.safetensors", metadata={"format": "pt"})
    proof = verify(out, [(one, 1.0)], base=str(of))
    assert any(message in failure for failure in proof["failures"]), proof["failures"]
    assert proof["model"] is None


def test_a_whole_merge_passes_and_its_figures_are_kept(made, tmp_path):
    of, one, whole = made["mixtral"]
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    assert "Not proved" in (out / "README.md").read_text()
    proof = verify(out, [(one, 1.0)], base=str(of))
    assert proof["failures"] == []
    assert proof["files"]["off"] <= 0.51
    assert "| result | passed |" in (out / "README.md").read_text()


def test_what_another_program_merged_can_be_verified(made, tmp_path):
    from .bases import adapted

    of, one, _ = made["llama"]
    adapted(of, one, "bfloat16").merge_and_unload().save_pretrained(tmp_path / "peft")
    proof = verify(tmp_path / "peft", [(one, 1.0)], base=str(of))
    assert proof["failures"] == []
    load(of, "bfloat16").save_pretrained(tmp_path / "nothing")
    proof = verify(tmp_path / "nothing", [(one, 1.0)], base=str(of))
    assert len(proof["failures"]) == proof["files"]["changed"] == 4
    with pytest.raises(ModelError, match="there is no folder"):
        verify(tmp_path / "absent", [(one, 1.0)], base=str(of))


def test_a_model_that_computes_something_else_fails_though_its_files_are_right(made, tmp_path):
    of, one, whole = made["llama"]
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    config = out / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 0.1'))
    proof = verify(out, [(one, 1.0)], base=str(of))
    assert proof["files"]["failures"] == []
    assert "diverge from those of base and adapter" in proof["failures"][0]


def test_divergence_is_that_of_two_known_distributions():
    p = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    q = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.2, 0.7]])
    found = agreement(Outputs(p.log(), 2.0, 2), Outputs(q.log(), 4.0, 2))
    by_hand = (0.5 * torch.log(torch.tensor(2.0)) + 0.25 * torch.log(torch.tensor(0.5))).item() / 2
    assert found["kl"] == pytest.approx(by_hand, rel=1e-6)
    assert found["kl_max"] == pytest.approx(2 * by_hand, rel=1e-6)
    assert found["top1"] == 0.5
    assert found["perplexity"] == {"live": pytest.approx(2.718281828), "merged": pytest.approx(7.389056)}
    scores = agreement(Outputs(torch.tensor([[1.0]]), 0, 0), Outputs(torch.tensor([[1.25]]), 0, 0))
    assert scores == {"positions": 1, "kl": None, "top1": None, "difference": 0.25}
