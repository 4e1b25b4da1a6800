"""Values that are not finite, put into each part of a step: the step is not taken, and the weights stay."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from peftkit.data.examples import IGNORED
from peftkit.errors import NotFiniteError
from peftkit.train.callbacks import MetricsCallback

from ..faults.rows import Case
from .families import Run, configuration, examples, trained

NAN, INF = float("nan"), float("inf")


class At(TrainerCallback):
    """Does something before a step, and notes the weights before each."""

    def __init__(self, step, act):
        self.step, self.act = step, act
        self.before = {}
        self.model = None

    def on_step_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.model = model
        if state.global_step + 1 == self.step:
            self.act(model, optimizer)
        self.before[state.global_step + 1] = {name: value.clone() for name, value in trained(model).items()}


def layer(model, name):
    return next(module for part, module in model.named_modules() if part.endswith(name))


def bad_output(value, name="layers.1.mlp.down_proj.base_layer"):
    """Let a layer's output hold a bad value in all passes of this step and the next."""

    def act(model, optimizer):
        def spoil(module, inputs, output):
            return torch.where(torch.arange(output.shape[-1]) == 3, value, output)

        layer(model, name).register_forward_hook(spoil)

    return act


def bad_gradient(value, name="layers.0.self_attn.q_proj.lora_B.default"):
    def act(model, optimizer):
        layer(model, name).weight.register_hook(lambda gradient: torch.full_like(gradient, value))

    return act


def bad_weight(value, name="layers.1.self_attn.q_proj.lora_A.default"):
    def act(model, optimizer):
        with torch.no_grad():
            layer(model, name).weight[0, 0] = value

    return act


def bad_rate(value):
    """Let the schedule give a learning rate that no setting could."""

    def act(model, optimizer):
        optimizer.param_groups[0]["lr"] = value

    return act


def large_gradients(model, optimizer):
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
    "the learning rate is NaN": (bad_rate(NAN), "the learning rate is nan", {}),
    "the learning rate is infinite": (bad_rate(INF), "the learning rate is inf", {"max_grad_norm": 0}),
}


def run_with(folder, act, step=3, **settings):
    """Return a training of five steps to which something is done before one of them, and what does it."""
    at = At(step, act)
    metrics = MetricsCallback(folder / "metrics.jsonl")
    config = configuration("causal", adapter=TARGETS, **{"max_steps": 5, "per_device_train_batch_size": 4, **settings})
    return Run(folder, "causal", config, callbacks=[at, metrics]), at


def bad_rate(value):
    """Let the schedule give a learning rate that no setting could."""

    def act(model, optimizer):
        optimizer.param_groups[0]["lr"] = value

    return act


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(model, weights):
    return all(torch.equal(value, weights[name]) or value.isnan().any() for name, value in trained(model).items())


def cases(full: bool) -> Iterator[Case]:
    """Give each injection; they take milliseconds."""
    for name in INJECTIONS:
        yield Case(name, partial(an_injection, name))
    yield Case("no token of a batch is trained", nothing_trained)


def an_injection(name: str, folder: Path) -> None:
    """Train until the third step goes wrong, and look at the weights, the error and the log."""
    act, cause, settings = INJECTIONS[name]
    run, at = run_with(folder, act, **settings)
    with pytest.raises(NotFiniteError, match=rf"^step 3 is not finite: .*{cause}; its rows are row \d+, ") as caught:
        run.trainer.train()
    assert caught.value.exit_code == 14
    assert same(at.model, at.before[3])
    assert not same(at.model, at.before[2])
    lines = lines_of(folder)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert set(lines[-1]["not_finite"]) == {"rows", "cause"}
    said = [lines[-1][name] for name in ("loss", "grad_norm", "learning_rate")]
    assert set(said) & {"nan", "inf", "-inf"}, said


def nothing_trained(folder: Path) -> None:
    """Train an encoder-decoder over a batch without labels: it is left out, and momentum moves nothing."""
    config = configuration("seq2seq", max_steps=5, per_device_train_batch_size=4, group_by_length=False)
    rows = examples("seq2seq", config)
    at = At(3, lambda model, optimizer: None)
    run = Run(folder, "seq2seq", config, rows, [at, MetricsCallback(folder / "metrics.jsonl")])
    collate = run.trainer.data_collator
    batches = 0

    def without_labels(batch):
        nonlocal batches
        batches += 1
        made = collate(batch)
        return {**made, "labels": torch.full_like(made["labels"], IGNORED)} if batches == 3 else made

    run.trainer.data_collator = without_labels
    run.trainer.train()
    weights = at.before
    assert all(torch.equal(weights[4][name], value) for name, value in weights[3].items())
    assert not any(torch.equal(weights[5][name], value) for name, value in weights[4].items() if "lora_B" in name)
