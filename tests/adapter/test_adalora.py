"""AdaLoRA gets from the training loop what it needs: fewer ranks at the end, and its penalty."""

import pytest
import torch

from peftkit.adapter.adalora import after_optimizer_step, orthogonality_penalty
from peftkit.adapter.attach import attach, load_adapter, save_adapter
from peftkit.adapter.peft_config import peft_config
from peftkit.config import AdapterConfig
from peftkit.errors import ConfigError

from .exercise import IDS, Bases, logits, settings, train


def adalora(tiny_model, steps):
    bases = Bases(tiny_model)
    return bases, attach(bases.get("none"), settings("adalora"), base=bases.config("none"), seed=0, steps=steps)


def test_the_ranks_that_are_left_are_those_of_the_budget(tiny_model, tmp_path):
    bases, model = adalora(tiny_model, steps=10)
    train(model, steps=10)
    kept = model.peft_config["default"].rank_pattern
    assert sum(map(sum, kept.values())) == 4 * len(kept)  # adapter.r each, on the average; half as many more at first
    save_adapter(model, tmp_path)
    assert torch.allclose(logits(load_adapter(bases.get("none"), tmp_path)), logits(model), atol=1e-6)


def test_the_penalty_is_the_one_that_peft_adds(tiny_model):
    _, model = adalora(tiny_model, steps=10)
    train(model, steps=1)
    with torch.no_grad():
        whole = model.train()(input_ids=IDS, labels=IDS).loss
        model.peft_config["default"].orth_reg_weight = 0.0
        plain = model(input_ids=IDS, labels=IDS).loss
        model.peft_config["default"].orth_reg_weight = 0.5
        assert orthogonality_penalty(model) == pytest.approx(float(whole - plain), rel=1e-4)


def test_other_methods_are_left_alone(tiny_model):
    bases = Bases(tiny_model)
    model = attach(bases.get("none"), AdapterConfig(r=4), base=bases.config("none"), seed=0)
    after_optimizer_step(model, 0)
    assert orthogonality_penalty(model) is None


def test_the_number_of_steps_must_be_known():
    with pytest.raises(ConfigError, match=r"train\.max_steps"):
        peft_config(AdapterConfig(method="adalora"))
