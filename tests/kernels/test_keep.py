"""Attention that is kept is not computed again: counted, with the same losses, and by the plan."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from peftkit.config import RunConfig
from peftkit.errors import ConfigError
from peftkit.kernels.keep import OPERATIONS
from peftkit.plan.outline import outline
from peftkit.plan.shapes import known_settings
from peftkit.plan.step import Batch, Device

from ..train.families import Run, configuration

ON = {"gradient_checkpointing": True}


class Counter(TorchDispatchMode):
    """Counts the calls of attention's operations."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += func.name() in OPERATIONS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("keep", "passes"), [(False, 2), (True, 1)])
def test_attention_is_computed_once(tmp_path, keep, passes):
    run = Run(tmp_path, "causal", configuration("causal", keep_attention=keep, **ON))
    run.model.gradient_checkpointing_enable()
    run.trainer.kernels.install()
    counter = Counter()
    with counter:
        run.gradients()
    batches, layers = 2, 2
    assert counter.calls == passes * batches * layers


def test_the_plan_counts_what_is_kept_and_what_is_not_computed():
    settings = known_settings("TinyLlama/TinyLlama-1.1B-v1.0")
    config = RunConfig(
        recipe="completion",
        task={"kind": "completion"},
        model={"path": "none"},
        train={"max_length": 8192, "max_steps": 10, **ON},
    )
    keeps = config.model_copy(update={"train": config.train.model_copy(update={"keep_attention": True})})
    batch, device = Batch(1, 8192, 8192), Device("cuda", torch.bfloat16)
    again, kept = (outline(settings, one, "causal", batch, device) for one in (config, keeps))
    outputs = settings.num_hidden_layers * 8192 * settings.hidden_size * 2
    assert kept.peak - again.peak == pytest.approx(outputs, rel=0.2)
    assert kept.work.flops() < 0.95 * again.work.flops()


def test_attention_that_is_not_one_operation_is_refused(tmp_path):
    config = configuration("causal", model={"attn_implementation": "eager"}, keep_attention=True, **ON)
    with pytest.raises(ConfigError, match=r"cannot see the attention 'eager'; take model.attn_implementation=sdpa"):
        Run(tmp_path, "causal", config)
