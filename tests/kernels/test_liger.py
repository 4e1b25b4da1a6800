"""Liger's kernels inside a run: the same losses, the model as it was afterwards, and what is refused.

Its Triton kernels run in Triton's interpreter here, which is slow; where Liger is not installed they are left out.
"""

import os
import sys

os.environ.setdefault("TRITON_INTERPRET", "1")

import numpy as np
import pytest
import torch

from peftkit.errors import ConfigError, MissingDependencyError
from peftkit.kernels import install, liger
from peftkit.plan.outline import outline
from peftkit.plan.shapes import known_settings
from peftkit.plan.step import Batch, Device

from ..train.families import Run, configuration

ON = {"liger_kernels": True}
needs_liger = pytest.mark.skipif(liger.find_spec("liger_kernel") is None, reason="needs liger-kernel")


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.setattr(install, "device_of", lambda model: "cuda")


@pytest.fixture
def interpreter(monkeypatch):
    """Triton's interpreter as kernels expect a GPU: numbers are float32 values, and there is a root."""
    import triton.language as tl
    from liger_kernel.ops import rms_norm
    from triton.runtime import interpreter

    own = interpreter._implicit_cvt

    def converted(value):
        if isinstance(value, float):
            return tl.tensor(interpreter.TensorHandle(np.array([value], dtype=np.float32), tl.float32), tl.float32)
        return own(value)

    monkeypatch.setattr(interpreter, "_implicit_cvt", converted)
    # CUDA's own root is nothing but a name here; and tl has another one inside of a kernel.
    monkeypatch.setattr(rms_norm, "rsqrt", lambda value: tl.rsqrt(value))


@needs_liger
@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("more", [{}, {"gradient_checkpointing": True, "tiled_mlp": 48}])
def test_losses_are_those_of_transformers(tmp_path, on_gpu, quantization, more):
    model = {"quantization": quantization}
    plain = Run(tmp_path / "a", "causal", configuration("causal", model=model, max_steps=2)).losses()
    run = Run(tmp_path / "b", "causal", configuration("causal", model=model, max_steps=2, **ON, **more))
    assert run.losses() == pytest.approx(plain, rel=1e-4)


@needs_liger
def test_the_model_and_its_module_are_as_they_were(tmp_path, on_gpu):
    run = Run(tmp_path, "causal", configuration("causal", **ON))
    base = run.model.get_base_model()
    home = vars(sys.modules[type(base).__module__])
    before, names = {name: dict(vars(one)) for name, one in base.named_modules()}, dict(home)
    run.trainer.kernels.install()
    changed = {name for name in names if home[name] is not names[name]}
    assert {"apply_rotary_pos_emb", "LlamaRMSNorm", "LlamaMLP"} <= changed
    norms = [vars(one).get("forward") for one in base.modules() if type(one).__name__ == "LlamaRMSNorm"]
    assert all("Liger" in one.__func__.__qualname__ for one in norms)
    run.trainer.kernels.remove()
    assert home == names
    assert all(vars(one) == before[name] for name, one in base.named_modules())


@needs_liger
def test_the_plan_counts_less():
    settings = known_settings("TinyLlama/TinyLlama-1.1B-v1.0")
    batch, device = Batch(1, 4096, 4096), Device("cuda", torch.bfloat16)
    task = {"kind": "completion"}
    peaks = [
        outline(settings, configuration("causal", task, **ways), "causal", batch, device).peak for ways in ({}, ON)
    ]
    assert peaks[1] < 0.9 * peaks[0]


def test_a_processor_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.liger_kernels=true needs a CUDA GPU; leave it out on a processor"):
        Run(tmp_path, "causal", configuration("causal", **ON))


def test_where_liger_is_not_here_that_is_said(tmp_path, on_gpu, monkeypatch):
    monkeypatch.setattr(liger, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'peftkit\[liger\]'"):
        Run(tmp_path, "causal", configuration("causal", **ON))


@needs_liger
def test_a_model_that_liger_does_not_know_is_refused(tmp_path, on_gpu, monkeypatch):
    monkeypatch.setattr(liger, "_known", dict)
    with pytest.raises(ConfigError, match="Liger has no kernels for a llama model; leave it out"):
        Run(tmp_path, "causal", configuration("causal", **ON))
