"""What the `train.*` settings must fulfil before anything is read, and the loss that `auto` stands for."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from itertools import chain

from peftkit.config import RunConfig, TaskConfig, TrainConfig
from peftkit.errors import ConfigError
from peftkit.train.optimizers import optimizer_complaints

Complaints = Iterator[tuple[str, str]]
_EXACT = ("cross_entropy", "dft", "focal")


def check_training(config: RunConfig, origin: Mapping[str, str]) -> None:
    """Refuse training settings that do not go together.

    Args:
        config: The whole configuration.
        origin: Where each key's value came from; a key that is not there came from the recipe.

    Raises:
        ConfigError: A name is unknown, or two settings do not go together.
        MissingDependencyError: A setting needs a package that is not here.
    """
    found = chain(
        loss_complaints(config), optimizer_complaints(config.train, config.adapter), schedule_complaints(config.train)
    )
    for key, complaint in found:
        source = next((where for one, where in origin.items() if one == key or one.startswith(f"{key}.")), "recipe")
        raise ConfigError(f"{key}: {complaint} ({source})")


def loss_name(config: RunConfig) -> str:
    """Return the name of the loss of a run."""
    return fitting_losses(config.task)[0] if config.train.loss == "auto" else config.train.loss


def fitting_losses(task: TaskConfig) -> tuple[str, ...]:
    """Return the losses that fit a task; the first is its default."""
    if task.kind == "regression":
        return ("mse", "mae", "huber")
    return ("cross_entropy", "focal") if task.multi_label else _EXACT


def loss_complaints(config: RunConfig) -> Complaints:
    """Yield the keys of the loss that do not fit the task, each with what is wrong."""
    task, train = config.task, config.train
    what = f"task.kind={task.kind}" + (" with task.multi_label=true" if task.multi_label else "")
    name = loss_name(config)
    if name not in fitting_losses(task):
        yield "train.loss", f"{name} does not fit {what}; take {' or '.join(fitting_losses(task))}"
    if train.label_smoothing and fitting_losses(task) != _EXACT:
        yield "train.label_smoothing", f"it is for texts and for one label a row, not for {what}; leave it out"
    elif train.label_smoothing and name != "cross_entropy":
        yield "train.label_smoothing", f"it goes with train.loss=cross_entropy, not with {name}; leave one of them out"
    if task.kind != "classification":
        for key in ("class_weights", "balance_classes"):
            if getattr(train, key):
                yield f"train.{key}", f"{what} has no labels to weigh; leave it out, or see data.weight_column"


def schedule_complaints(train: TrainConfig) -> Complaints:
    """Yield the keys of the learning-rate schedule that are not usable, each with what is wrong."""
    if train.lr_scheduler_type == TrainConfig.model_fields["lr_scheduler_type"].default:
        return  # known to be there, without an import that takes seconds
    from transformers.trainer_utils import SchedulerType

    names = [str(one.value) for one in SchedulerType]
    if train.lr_scheduler_type not in names:
        near = difflib.get_close_matches(train.lr_scheduler_type, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(names)}"
        yield "train.lr_scheduler_type", f"'{train.lr_scheduler_type}' is no schedule of transformers; {hint}"
    if train.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
        yield (
            "train.lr_scheduler_type",
            f"{train.lr_scheduler_type} waits for evaluations during training, and there are none; take cosine",
        )
    if train.lr_scheduler_type == "warmup_stable_decay" and train.warmup_fraction + train.decay_fraction > 1:
        yield "train.decay_fraction", "together with train.warmup_fraction it is more than all steps; lower one of them"
