"""A step that is not finite is not taken: the weights stay, and step, rows and layer are named."""

import json

import pytest
import torch
from transformers import TrainerCallback

from peftkit.errors import NotFiniteError
from peftkit.train.callbacks import MetricsCallback
from peftkit.train.spikes import Spikes

from .families import Run, configuration, examples, trained

NAN, INF = float("nan"), float("inf")


class At(TrainerCallback):
    """Does something before a step, and notes the weights before each."""

    def __init__(self, step, act):
        self.step, self.act = step, act
        self.before = {}
        self.model = None

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.model = model
        if state.global_step + 1 == self.step:
            self.act(model)
        self.before[state.global_step + 1] = {name: value.clone() for name, value in trained(model).items()}


def layer(model, name):
    return next(module for part, module in model.named_modules() if part.endswith(name))


def bad_output(value, name="layers.1.mlp.down_proj.base_layer"):
    """Let a layer's output hold a bad value in all passes of this step and the next."""

    def act(model):
        def spoil(module, inputs, output):
            return torch.where(torch.arange(output.shape[-1]) == 3, value, output)

        layer(model, name).register_forward_hook(spoil)

    return act


def bad_gradient(value, name="layers.0.self_attn.q_proj.lora_B.default"):
    def act(model):
        layer(model, name).weight.register_hook(lambda gradient: torch.full_like(gradient, value))

    return act


def bad_weight(value, name="layers.1.self_attn.q_proj.lora_A.default"):
    def act(model):
        with torch.no_grad():
            layer(model, name).weight[0, 0] = value

    return act


def large_gradients(model):
    for value in trained(model).values():
        value.register_hook(lambda gradient: torch.full_like(gradient, 1e38))


TARGETS = {"target_modules": ["q_proj", "down_proj"]}
LAYER = r"the first layer whose output is not finite is 'model\.layers\.1\.mlp\.down_proj\.base_layer'"
GRADIENT = r"the first gradient that is not is that of 'model\.layers\.0\.self_attn\.q_proj\.lora_B\.weight'"
WEIGHT = r"the weight 'model\.layers\.1\.self_attn\.q_proj\.lora_A\.weight' is not finite already"
INJECTIONS = {
    "an output is NaN": (bad_output(NAN), LAYER, {}),
    "an output is infinite": (bad_output(INF), LAYER, {}),
    "an output without clipping": (bad_output(NAN), LAYER, {"max_grad_norm": 0}),
    "an output in a part of a step": (bad_output(NAN), LAYER, {"gradient_accumulation_steps": 2}),
    "one gradient is NaN": (bad_gradient(NAN), GRADIENT, {}),
    "one gradient is infinite": (bad_gradient(-INF), GRADIENT, {"max_grad_norm": 0}),
    "all gradients are too large": (large_gradients, "the norm of the gradient is too large for its dtype", {}),
    "a weight is NaN": (bad_weight(NAN), WEIGHT, {}),
    "a weight is infinite": (bad_weight(INF), WEIGHT, {"optim": "adamw_8bit"}),
    "a loss of its own": (bad_output(NAN), LAYER, {"loss": "focal"}),
}


def run_with(tmp_path, act, step=3, **settings):
    at = At(step, act)
    metrics = MetricsCallback(tmp_path / "metrics.jsonl")
    config = configuration("causal", adapter=TARGETS, **{"max_steps": 5, "per_device_train_batch_size": 4, **settings})
    return Run(tmp_path, "causal", config, callbacks=[at, metrics]), at


def lines_of(tmp_path):
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def same(model, weights):
    return all(torch.equal(value, weights[name]) or value.isnan().any() for name, value in trained(model).items())


@pytest.mark.parametrize("name", INJECTIONS)
def test_training_stops_before_the_weights_change(name, tmp_path):
    act, cause, settings = INJECTIONS[name]
    run, at = run_with(tmp_path, act, **settings)
    with pytest.raises(NotFiniteError, match=rf"^step 3 is not finite: .*{cause}; its rows are row \d+, ") as caught:
        run.trainer.train()
    assert caught.value.exit_code == 14
    assert same(at.model, at.before[3])
    assert not same(at.model, at.before[2])
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[-1]["loss"] in ("nan", "inf") or lines[-1]["grad_norm"] in ("nan", "inf")
    assert set(lines[-1]["not_finite"]) == {"rows", "cause"}


def test_the_rows_are_those_of_the_batch(tmp_path):
    """One row alone gives a bad loss: it is among those that are named, and without it nothing stops."""
    config = configuration("causal", max_steps=4, per_device_train_batch_size=4)
    rows = examples("causal", config)
    bad = rows[5].prompt_ids[:]

    def act(model):
        def spoil(module, inputs, output):
            held = [row[: len(bad)].tolist() == bad for row in inputs[0]]
            return torch.where(torch.tensor(held)[:, None, None], NAN, output)

        layer(model, "embed_tokens").register_forward_hook(spoil)

    rows = [one for one in rows if one.prompt_ids != bad] + [rows[5]]
    run = Run(tmp_path, "causal", config, rows, [At(1, act)])
    with pytest.raises(NotFiniteError, match=r"output is not finite is 'model.embed_tokens'; .*row 5[,;]"):
        run.trainer.train()
    rest = Run(tmp_path / "rest", "causal", config, rows[:-1], [At(1, act)])
    rest.trainer.train()
    assert rest.trainer.state.global_step == 4


@pytest.mark.parametrize("optimizer", ["adamw", "schedule_free_adamw", "muon"])
def test_a_few_bad_steps_can_be_left_out(optimizer, tmp_path):
    class Once(At):
        def on_step_end(self, *args, **kwargs):
            for module in self.model.modules():
                module._forward_hooks.clear()

    schedule = {"lr_scheduler_type": "constant"}
    config = configuration("causal", adapter=TARGETS, max_steps=5, on_nan="skip", optim=optimizer, **schedule)
    at = Once(3, bad_output(NAN))
    run = Run(tmp_path, "causal", config, callbacks=[at, MetricsCallback(tmp_path / "metrics.jsonl")])
    run.trainer.train()
    weights = at.before
    for name, value in weights[4].items():  # a schedule-free optimizer rounds where it goes to its averages and back
        torch.testing.assert_close(value, weights[3][name], rtol=0, atol=1e-7 if "free" in optimizer else 0)
    assert not any(torch.equal(weights[4][name], value) for name, value in weights[5].items() if "lora_B" in name)
    assert run.trainer.skipped_steps == 1
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in lines if "not_finite" in line] == [3]
    assert lines[2]["loss"] == "nan"
    assert all(isinstance(line["loss"], float) for line in lines if line["step"] != 3)


def test_too_many_of_them_stop(tmp_path):
    run, _ = run_with(tmp_path, bad_output(NAN), step=2, on_nan="skip", max_nan_steps=2)
    with pytest.raises(NotFiniteError, match=r"^step 4 is not finite: .*\(2 steps were left out before\)"):
        run.trainer.train()


@pytest.mark.parametrize("family", ["head", "seq2seq"])
def test_other_kinds_of_models_are_guarded(family, tmp_path):
    def act(model):
        for value in trained(model).values():
            value.register_hook(lambda gradient: gradient * NAN)

    config = configuration(family, max_steps=4)
    run = Run(tmp_path, family, config, callbacks=[At(2, act)])
    with pytest.raises(NotFiniteError, match=r"^step 2 is not finite: the loss is finite; .*; its rows are row \d+"):
        run.trainer.train()


def test_packed_rows_are_named_by_where_they_come_from(tmp_path):
    config = configuration("causal", adapter=TARGETS, max_steps=2, packing=True, max_length=64)
    run = Run(tmp_path, "causal", config, callbacks=[At(1, bad_output(NAN))])
    with pytest.raises(NotFiniteError, match=r"its rows are row \d+, row \d+"):
        run.trainer.train()


def test_jumps_of_the_loss_are_seen_and_noise_is_not():
    drawn = torch.Generator().manual_seed(0)
    noise = [2 + 0.2 * one for one in torch.randn(2000, generator=drawn).tolist()]
    spikes = Spikes()
    assert not any(spikes.look(one) for one in noise)
    assert spikes.look(9.0)
    assert 1.8 < spikes.usual < 2.2
    assert not spikes.look(2.1)
    falling = Spikes()
    assert not any(falling.look(5 * 0.99**step) for step in range(300))
    early = Spikes()
    assert not any(early.look(one) for one in [1.0] * 19 + [50.0])
    assert not early.look("nan")
