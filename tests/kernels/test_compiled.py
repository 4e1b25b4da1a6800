"""Compiled layers: the same losses, one compilation for all layers, and the model's names as they were."""

import shutil

import pytest
import torch

from peftkit.kernels import compiled

from ..train.families import Run, configuration

CASES = {
    "none": {},
    "nf4": {"model": {"quantization": "nf4"}},
    "nf4, recomputed": {"model": {"quantization": "nf4"}, "gradient_checkpointing": True},
    "nf4, one layer recomputed, PEFT's LoRA": {
        "model": {"quantization": "nf4"},
        "gradient_checkpointing": True,
        "checkpoint_layers": 1,
        "fused_lora": False,
    },
}


SHORT = "nf4, one layer recomputed, PEFT's LoRA"


ALL = [SHORT, *(pytest.param(one, marks=pytest.mark.slow) for one in CASES if one != SHORT)]


@pytest.mark.parametrize("case", ALL)
def test_losses_are_those_of_layers_that_are_not_compiled(tmp_path, monkeypatch, case):
    assert_the_same_losses(tmp_path, monkeypatch, case, "aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles for a processor with g++")
@pytest.mark.parametrize("case", ["none", "nf4"])
def test_losses_are_the_same_in_generated_code(tmp_path, monkeypatch, case):
    assert_the_same_losses(tmp_path, monkeypatch, case, compiled.BACKEND)


def assert_the_same_losses(folder, monkeypatch, case, backend):
    monkeypatch.setattr(compiled, "BACKEND", backend)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain = Run(folder / "a", "causal", configuration("causal", max_steps=3, **CASES[case])).losses()
    run = Run(folder / "b", "causal", configuration("causal", max_steps=3, compile_layers=True, **CASES[case]))
    names = list(run.model.state_dict())
    inside = []
    install = run.trainer.kernels.install
    run.trainer.kernels.install = lambda: (install(), inside.extend(run.model.state_dict()))
    assert run.losses() == pytest.approx(plain, rel=1e-5)
    assert inside == names
    assert not any("forward" in vars(one) for one in run.trainer.kernels.layers)
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"]
    assert 1 <= counters["stats"]["unique_graphs"] <= 4  # with a gradient of the input or without, then for all lengths
