"""The optimizers by name: what each keeps in memory, when to take it, and who makes it."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from peftkit.config import AdapterConfig, TrainConfig
from peftkit.errors import MissingDependencyError

_LION = ("beta1", "beta2")
_ADAM = (*_LION, "eps")


@dataclass(frozen=True)
class Optimizer:
    """One optimizer.

    Attributes:
        state_bytes: Memory of its state per trained parameter; those of 8 bits keep 32 for tensors below 4096 values,
            and a scale for each 256 values besides.
        when: When to take it.
        transformers: Its name in transformers, which then makes it; empty where `own_optimizer` does.
        arguments: What `train.optim_args` may hold.
        library: Package that it needs beyond those of peftkit, as it is imported and installed.
    """

    state_bytes: float
    when: str
    transformers: str = ""
    arguments: tuple[str, ...] = _ADAM
    library: str = ""


OPTIMIZERS: Mapping[str, Optimizer] = {
    "adamw": Optimizer(8, "the default; an adapter's state is small", "adamw_torch"),
    "adam": Optimizer(8, "weight decay as part of the gradient, as in older work"),
    "adamw_8bit": Optimizer(2, "large adapters: a quarter of the memory, nearly the same steps", "adamw_8bit"),
    "paged_adamw": Optimizer(8, "as adamw; its state moves to main memory when a GPU is full", "paged_adamw_32bit"),
    "paged_adamw_8bit": Optimizer(2, "both of these, for the tightest GPU", "paged_adamw_8bit"),
    "lion": Optimizer(4, "half of adamw's memory; wants a 3 to 10 times lower learning rate", "lion_32bit", _LION),
    "lion_8bit": Optimizer(1, "an eighth of adamw's memory; lower learning rate as lion", "lion_8bit", _LION),
    "paged_lion": Optimizer(4, "as lion, with paged state", "paged_lion_32bit", _LION),
    "paged_lion_8bit": Optimizer(1, "as lion_8bit, with paged state", "paged_lion_8bit", _LION),
    "adafactor": Optimizer(0.3, "almost no state: one number per row and column of a matrix", "adafactor", ()),
    "sgd": Optimizer(
        0,
        "no state, 4 bytes with momentum; wants a far higher learning rate",
        "sgd",
        ("momentum", "dampening", "nesterov"),
    ),
    "rmsprop": Optimizer(4, "adam without momentum", "rmsprop", ("momentum", "alpha", "centered")),
    "adagrad": Optimizer(4, "a rate per parameter that only falls", "adagrad", ("lr_decay",)),
    "ademamix": Optimizer(
        12, "long runs: remembers old gradients too (arXiv 2409.03137)", "ademamix", (*_ADAM, "beta3", "alpha")
    ),
    "ademamix_8bit": Optimizer(3, "the same in 8 bits", "ademamix_8bit", (*_ADAM, "beta3", "alpha")),
    "loraplus": Optimizer(8, "LoRA whose B learns faster than A (arXiv 2402.12354); halve the learning rate"),
    "lorafa": Optimizer(
        8, "LoRA whose A stays as it is (arXiv 2308.03303): about half is trained, with half the state", arguments=()
    ),
    "muon": Optimizer(
        4,
        "orthogonal updates of matrices, adamw for the rest; half of adamw's memory",
        arguments=("momentum", "nesterov", "ns_steps", *_ADAM),
    ),
    "schedule_free_adamw": Optimizer(
        8,
        "no schedule and no fixed end (arXiv 2405.15682)",
        arguments=(*_ADAM, "r", "weight_lr_power"),
        library="schedulefree",
    ),
    "schedule_free_sgd": Optimizer(
        4,
        "the same without a rate per parameter",
        arguments=("momentum", "r", "weight_lr_power"),
        library="schedulefree",
    ),
    "schedule_free_radam": Optimizer(
        8, "the same without a warm-up", arguments=(*_ADAM, "r", "weight_lr_power"), library="schedulefree"
    ),
}
_SWITCHES = ("nesterov", "centered")
_FREE_SCHEDULES = ("constant", "constant_with_warmup")


def find_optimizer(name: str) -> Optimizer | None:
    """Return the optimizer of that name, ours or transformers'; None for one that is not in the table."""
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    name = {"adamw_bnb_8bit": "adamw_8bit"}.get(name, name)  # transformers has two names for it
    return next((one for one in OPTIMIZERS.values() if one.transformers == name), None)


def state_bytes(name: str) -> float:
    """Return the bytes of state for each trained parameter; those of AdamW for an optimizer that is not known."""
    found = find_optimizer(name) or OPTIMIZERS["adamw"]
    return found.state_bytes


def optimizer_complaints(train: TrainConfig, adapter: AdapterConfig) -> Iterator[tuple[str, str]]:
    """Yield the keys that name no usable optimizer, or do not go with it, each with what is wrong.

    Raises:
        MissingDependencyError: The optimizer needs a package that is not here.
    """
    found = find_optimizer(train.optim)
    if found is None:
        yield from _unknown(train.optim)
    arguments = found.arguments if found else ()
    for name, value in train.optim_args.items():
        if name not in arguments:
            known = f"it takes {', '.join(arguments)}" if arguments else "it takes none"
            yield f"train.optim_args.{name}", f"{train.optim} has no such argument; {known}"
        elif isinstance(value, bool) != (name in _SWITCHES):
            wanted = "true or false" if name in _SWITCHES else "a number"
            yield f"train.optim_args.{name}", f"{value} is not usable; {wanted} is expected"
    if found and found.library and importlib.util.find_spec(found.library) is None:
        raise MissingDependencyError(f"train.optim={train.optim} needs {found.library}: `pip install {found.library}`")
    if train.optim.startswith("schedule_free") and train.lr_scheduler_type not in _FREE_SCHEDULES:
        needed = " or ".join(_FREE_SCHEDULES)
        yield "train.optim", f"{train.optim} takes the place of a schedule; give train.lr_scheduler_type={needed}"
    if train.optim in ("loraplus", "lorafa") and (adapter.method != "lora" or adapter.use_dora):
        yield "train.optim", f"{train.optim} is for plain LoRA; take adapter.method=lora, or another optimizer"


def _unknown(name: str) -> Iterator[tuple[str, str]]:
    from transformers.training_args import OptimizerNames

    names = [*OPTIMIZERS, *(str(one.value) for one in OptimizerNames)]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are for example {', '.join(OPTIMIZERS)}"
        yield "train.optim", f"'{name}' is no optimizer; {hint}"


def name_in_transformers(train: TrainConfig) -> str:
    """Return transformers' name of the optimizer; where `own_optimizer` makes it, one that transformers accepts."""
    found = find_optimizer(train.optim)
    return (found.transformers or "adamw_torch") if found else train.optim


def arguments_for_transformers(train: TrainConfig) -> dict[str, Any]:
    """Return `train.optim_args` as arguments of `TrainingArguments`: fields of their own, and a text for the rest."""
    fields = {"beta1": "adam_beta1", "beta2": "adam_beta2", "eps": "adam_epsilon"}
    given: dict[str, Any] = {fields[name]: value for name, value in train.optim_args.items() if name in fields}
    others = [f"{name}={value}" for name, value in train.optim_args.items() if name not in fields]
    return {**given, "optim_args": ",".join(others)} if others else given


def own_optimizer(train: TrainConfig, adapter: AdapterConfig) -> tuple[Any, dict[str, Any]] | None:
    """Return a class or factory, and its arguments, as transformers' Trainer takes them; None where it has its own."""
    import torch
    from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer

    from peftkit.train.muon import MuonWithAdamW

    given: dict[str, Any] = dict(train.optim_args)
    adam = {"betas": (given.pop("beta1", 0.9), given.pop("beta2", 0.999)), "eps": given.pop("eps", 1e-8)}
    given["lr"] = train.learning_rate
    if train.optim == "adam":
        return torch.optim.Adam, given | adam
    if train.optim == "muon":
        return MuonWithAdamW, given | adam
    if train.optim == "loraplus":
        ratio = {"loraplus_lr_ratio": train.loraplus_lr_ratio, "loraplus_weight_decay": train.weight_decay}
        return lambda: create_loraplus_optimizer, given | adam | ratio | {"optimizer_cls": torch.optim.AdamW}
    if train.optim == "lorafa":
        scale = {"r": adapter.r, "lora_alpha": adapter.lora_alpha, "weight_decay": train.weight_decay}
        return lambda: create_lorafa_optimizer, given | scale
    if train.optim.startswith("schedule_free"):
        import schedulefree

        # transformers would pass on its share of warm-up steps as a number of steps, and start at 20 times the rate.
        name = {"adamw": "AdamWScheduleFree", "sgd": "SGDScheduleFree", "radam": "RAdamScheduleFree"}
        kind = train.optim.removeprefix("schedule_free_")
        return getattr(schedulefree, name[kind]), given if kind == "sgd" else given | adam
    return None
