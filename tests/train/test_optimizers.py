"""Every optimizer of the table trains an adapter, and keeps as much state as the table says."""

import copy

import pytest
import torch
from transformers.training_args import OptimizerNames

from peftkit.config import AdapterConfig, TrainConfig
from peftkit.errors import ConfigError, MissingDependencyError
from peftkit.train.muon import MuonWithAdamW
from peftkit.train.optimizers import OPTIMIZERS, find_optimizer, own_optimizer

from .families import Run, configuration, falls, trained

FREE = {"lr_scheduler_type": "constant_with_warmup"}
SETTINGS = {
    "sgd": {"learning_rate": 1.0},
    "lion": {"learning_rate": 3e-3},
    "lion_8bit": {"learning_rate": 3e-3},
    "adagrad": {"learning_rate": 5e-2},
    "muon": {"learning_rate": 3e-2},
    "schedule_free_adamw": FREE,
    "schedule_free_sgd": FREE | {"learning_rate": 1.0},
    "schedule_free_radam": {"lr_scheduler_type": "constant", "learning_rate": 1e-1},
}


def configured(name, **settings):
    return configuration("causal", optim=name, **{**SETTINGS.get(name, {}), **settings})


def state_bytes(optimizer):
    return sum(
        value.nbytes
        for state in optimizer.state.values()
        for name, value in state.items()
        if torch.is_tensor(value) and not name.startswith(("qmap", "absmax", "step"))
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains(tmp_path, name):
    run = Run(tmp_path, "causal", configured(name, adapter={"r": 256}))
    assert falls(run.losses())
    inner = run.trainer.optimizer.optimizer
    parameters = sum(value.numel() for value in trained(run.model).values())
    expected = OPTIMIZERS[name].state_bytes
    assert state_bytes(inner) / parameters == pytest.approx(expected, abs=0.2 if expected < 1 else 0.05 * expected)


def test_the_names_of_transformers_are_real_and_found():
    theirs = {str(one.value) for one in OptimizerNames}
    for name, optimizer in OPTIMIZERS.items():
        if optimizer.transformers:
            assert optimizer.transformers in theirs
            assert find_optimizer(optimizer.transformers).transformers == OPTIMIZERS[name].transformers
    assert find_optimizer("adamw_bnb_8bit") is OPTIMIZERS["adamw_8bit"]
    assert find_optimizer("lomo") is None


def made(tmp_path, **settings):
    return Run(tmp_path, "causal", configuration("causal", **settings)).trainer


def test_arguments_reach_the_optimizers_of_torch(tmp_path):
    trainer = made(tmp_path, optim="sgd", optim_args={"momentum": 0.8, "nesterov": True}, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (0.8, True)
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    optimizer = made(tmp_path, optim_args={"beta1": 0.8, "beta2": 0.9, "eps": 1e-5}).create_optimizer()
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (optimizer.defaults["betas"], optimizer.defaults["eps"]) == ((0.8, 0.9), 1e-5)
    optimizer = made(tmp_path, optim="adam", optim_args={"beta2": 0.9}).create_optimizer()
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.defaults["betas"] == (0.9, 0.9)


def test_what_an_optimizer_refuses_is_said_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.\* settings are refused: Nesterov momentum requires"):
        made(tmp_path, optim="sgd", optim_args={"nesterov": True})


def test_a_library_that_only_transformers_knows_is_named(tmp_path):
    with pytest.raises(MissingDependencyError, match="torchao"):
        made(tmp_path, optim="adamw_torch_4bit")


def test_loraplus_lets_b_learn_faster(tmp_path):
    trainer = made(tmp_path, optim="loraplus", loraplus_lr_ratio=8, learning_rate=1e-3)
    rates = {id(value): group["lr"] for group in trainer.create_optimizer().param_groups for value in group["params"]}
    names = trained(trainer.model)
    assert {rates[id(value)] for name, value in names.items() if "lora_A" in name} == {1e-3}
    assert {rates[id(value)] for name, value in names.items() if "lora_B" in name} == {8e-3}


def test_lorafa_leaves_a_as_it_is(tmp_path):
    run = Run(tmp_path, "causal", configured("lorafa", max_steps=3))
    before = {name: value.clone() for name, value in run.model.named_parameters() if "lora_" in name}
    run.losses()
    for name, value in run.model.named_parameters():
        if "lora_" in name:
            assert torch.equal(value, before[name]) == ("lora_A" in name), name


def test_a_schedule_free_run_ends_with_the_averaged_weights(tmp_path):
    run = Run(tmp_path, "causal", configured("schedule_free_adamw", max_steps=6))
    run.losses()
    averaged = {name: value.clone() for name, value in trained(run.model).items()}
    optimizer = run.trainer.optimizer.optimizer
    assert not optimizer.param_groups[0]["train_mode"]
    optimizer.train()
    assert any(not torch.equal(value, averaged[name]) for name, value in trained(run.model).items())


def test_the_first_steps_of_a_schedule_free_run_are_small(tmp_path):
    run = Run(tmp_path, "causal", configured("schedule_free_adamw", warmup_fraction=0.5, max_steps=8))
    run.losses()
    rates = [line["learning_rate"] for line in run.trainer.state.log_history if "loss" in line]
    assert rates == pytest.approx([0, 0.25e-2, 0.5e-2, 0.75e-2, 1e-2, 1e-2, 1e-2, 1e-2])
    assert run.trainer.optimizer.param_groups[0]["lr_max"] == pytest.approx(1e-2)


def rates(tmp_path, **settings):
    """The learning rate of each of twenty steps."""
    trainer = made(tmp_path, learning_rate=1.0, max_steps=20, **settings)
    trainer.create_optimizer_and_scheduler(20)
    found = []
    for _ in range(20):
        found.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    return found


def test_warmup_stable_decay_falls_over_its_share_of_the_steps(tmp_path):
    linear = {"lr_scheduler_kwargs": {"decay_type": "linear"}}
    settings = {"lr_scheduler_type": "warmup_stable_decay", "warmup_fraction": 0.1}
    found = rates(tmp_path, **settings, decay_fraction=0.25, extra=linear)
    assert found == pytest.approx([0, 0.5, *[1] * 13, 1, 0.8, 0.6, 0.4, 0.2])
    given = {"lr_scheduler_kwargs": {"decay_type": "linear", "num_decay_steps": 2}}
    assert rates(tmp_path, **settings, extra=given) == pytest.approx([0, 0.5, *[1] * 16, 1, 0.5])


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("constant", {}, {0: 1, 1: 1, 19: 1}),
        ("constant_with_warmup", {}, {0: 0, 1: 0.25, 4: 1, 19: 1}),
        ("linear", {}, {0: 0, 4: 1, 12: 0.5}),
        ("cosine", {}, {0: 0, 4: 1, 12: 0.5}),
        ("cosine_with_min_lr", {"lr_scheduler_kwargs": {"min_lr": 0.5}}, {0: 0, 4: 1, 12: 0.75}),
    ],
)
def test_schedules_rise_and_fall(tmp_path, name, settings, expected):
    found = rates(tmp_path, lr_scheduler_type=name, warmup_fraction=0.2, extra=settings)
    assert {step: found[step] for step in expected} == pytest.approx(expected)


def parameters():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(6, 4)), torch.nn.Parameter(torch.randn(5))]


def step(optimizer, values):
    sum((value**2).sum() for value in values).backward()
    optimizer.step()
    optimizer.zero_grad()


def test_muon_is_torch_s_on_matrices_and_adamw_on_the_rest():
    ours, theirs = parameters(), parameters()
    both = MuonWithAdamW([{"params": ours, "weight_decay": 0.1}], lr=1e-2)
    muon = torch.optim.Muon([theirs[0]], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW([theirs[1]], lr=1e-2, weight_decay=0.1)
    for rate in (1e-2, 5e-3):
        for group in (*both.param_groups, *muon.param_groups, *adamw.param_groups):
            group["lr"] = rate
        step(both, ours)
        sum((value**2).sum() for value in theirs).backward()
        for one in (muon, adamw):
            one.step()
            one.zero_grad()
    assert all(torch.equal(left, right) for left, right in zip(ours, theirs, strict=True))
    assert not torch.equal(ours[0], parameters()[0])


def test_muon_goes_on_from_a_saved_state():
    values = parameters()
    optimizer = MuonWithAdamW([{"params": values, "weight_decay": 0.0}], lr=1e-2)
    step(optimizer, values)
    resumed_values = [torch.nn.Parameter(value.detach().clone()) for value in values]
    resumed = MuonWithAdamW([{"params": resumed_values, "weight_decay": 0.0}], lr=1.0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(optimizer, values)
    step(resumed, resumed_values)
    assert all(torch.equal(left, right) for left, right in zip(values, resumed_values, strict=True))


def test_optimizers_of_transformers_are_left_to_it():
    assert own_optimizer(TrainConfig(), AdapterConfig()) is None
