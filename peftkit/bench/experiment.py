"""Experiments: small YAML files that say what is trained, on what lengths, for how long, and by whom.

A file holds one experiment, or a set of them: `base` has what they share, `variants` what each has of its own, and
`matrix` lists of values that are combined. Beside the keys of `Experiment`, any key of a run's configuration can
stand there (`train.per_device_train_batch_size: 4`), nested or with dots.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from peftkit.config import GROUPS, Count, PositiveCount, Share, Text
from peftkit.errors import ConfigError
from peftkit.resolve import Resolved, resolve
from peftkit.yaml_file import load_yaml

OWN = "peftkit"
"""The contestant that needs no script."""


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _histogram(value: object) -> object:
    """Read one length as a histogram of it alone; the keys of YAML are numbers already."""
    return {value: 1} if isinstance(value, int) and not isinstance(value, bool) else value


Lengths = Annotated[dict[PositiveCount, PositiveCount], BeforeValidator(_histogram), Field(min_length=1)]


class Contestant(_Group):
    """Who trains: peftkit itself, or a script that is called with the path of a job.

    Attributes:
        script: Python file, from the experiment's folder; None for peftkit itself.
        arguments: More words of its command line.
        train: More keys of `train.*` for peftkit itself.
    """

    script: Path | None = None
    arguments: tuple[Text, ...] = ()
    train: dict[str, Any] = {}

    @model_validator(mode="after")
    def _takes_what_it_can(self) -> Contestant:
        if self.script is not None and self.train:
            raise ValueError("train is for peftkit itself; give a script its own arguments")
        if self.script is None and self.arguments:
            raise ValueError("arguments are for a script; peftkit itself takes train")
        return self


class Experiment(_Group):
    """One experiment: what every contestant trains.

    Attributes:
        name: What tells it from the others of its set.
        recipe: Whose task, data and settings are taken.
        preset: Of the recipe.
        settings: Keys of the run's configuration that are set here, by their names with dots.
        shapes: Name of a well-known model whose shapes are taken, with random weights; empty takes `model.path`.
        layers: Layers of these shapes; empty takes all.
        lengths: Tokens of the rows: one number, or how often each length occurs; empty takes the recipe's data.
        trained: Share of each row that is trained, where `lengths` are given.
        steps: Optimizer steps that are measured.
        warmup_steps: Steps before them that are not.
        same_batches: Whether all contestants take the same rows in the same order, and none sorts them by length.
        held_out_rows: Rows whose loss is measured after training.
        loss_steps: Steps of one more turn of each contestant on the same batches in the same order, whose loss curves
            are compared; 0 compares the loss of held-out rows.
        judges: The experiment whose losses this one compares; it is made by `loss_steps`.
        minutes: After which a contestant is stopped.
    """

    name: Text = ""
    recipe: Text = "completion"
    preset: Text = "tiny"
    settings: dict[str, Any] = {}
    shapes: Text | None = None
    layers: PositiveCount | None = None
    lengths: Lengths | None = None
    trained: Share = 1.0
    steps: PositiveCount = 10
    warmup_steps: PositiveCount = 2
    same_batches: bool = False
    held_out_rows: Count = 16
    loss_steps: Count = 0
    judges: Text | None = None
    minutes: PositiveCount = 60

    @model_validator(mode="after")
    def _is_consistent(self) -> Experiment:
        if self.layers is not None and self.shapes is None:
            raise ValueError("layers is for shapes; name a model with shapes")
        if self.shapes is not None and self.lengths is None:
            raise ValueError("shapes have no tokenizer, so they need lengths")
        if self.shapes is not None and "model.path" in self.settings:
            raise ValueError("shapes take the place of model.path; leave one out")
        return self

    @property
    def all_steps(self) -> int:
        """Steps with those of the warm-up."""
        return self.warmup_steps + self.steps

    @property
    def twin(self) -> Experiment | None:
        """The experiment that compares the loss curves; None where none does."""
        if not self.loss_steps:
            return None
        own = {"name": f"{self.name}, same batches", "same_batches": True, "judges": self.name, "loss_steps": 0}
        return self.model_copy(update={**own, "steps": max(1, self.loss_steps - self.warmup_steps)})

    def resolved(self, train: Mapping[str, Any] | None = None) -> Resolved:
        """Return the run's configuration, with more keys of `train.*` if given.

        Raises:
            ConfigError: A key is unknown or its value is not usable.
        """
        fixed = {"train.max_steps": self.all_steps, "evaluate.max_rows": self.held_out_rows}
        if self.lengths is not None:
            fixed["train.max_length"] = max(self.lengths)
        for key in fixed.keys() & self.settings.keys():
            raise ConfigError(f"{key} is decided by the experiment's own keys; leave it out of '{self.name}'")
        own = {f"train.{key}": value for key, value in (train or {}).items()}
        return resolve(self.recipe, preset=self.preset, values={**self.settings, **own, **fixed})


class ExperimentSet(_Group):
    """Experiments that are run together.

    Attributes:
        name: Of the set.
        summary: What it is for, in a sentence.
        rounds: How often each contestant takes its turn.
        reference: The contestant that the loss is compared with; empty takes none.
        contestants: By their names.
        experiments: What they train.
        folder: Where scripts are looked for.
    """

    name: Text
    summary: Text = ""
    rounds: PositiveCount = 3
    reference: Text | None = None
    contestants: dict[str, Contestant] = {OWN: Contestant()}
    experiments: tuple[Experiment, ...]
    folder: Path

    @model_validator(mode="after")
    def _names_who_is_there(self) -> ExperimentSet:
        if self.reference is not None and self.reference not in self.contestants:
            raise ValueError(f"reference: there is no contestant '{self.reference}'")
        names = [one.name for one in self.experiments]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two experiments are called '{twice[0]}'; give variants a name")
        return self


def load_set(file: Path) -> ExperimentSet:
    """Read a file of experiments, and check all that can be checked before anything runs.

    Raises:
        ConfigError: A key is unknown, a value not usable, or a script is not there.
    """
    content = load_yaml(file)
    shared: dict[str, Any] = {key: content.pop(key) for key in ("base", "variants", "matrix") if key in content}
    held = ("name", "summary", "rounds", "reference", "contestants")
    own: dict[str, Any] = {key: content.pop(key) for key in held if key in content}
    own.setdefault("name", file.stem)
    try:
        if content:  # a file with one experiment has its keys at the top
            shared["base"] = {**_mapping(shared.get("base"), "base"), **content}
        contestants = {name: one or {} for name, one in _mapping(own.get("contestants"), "contestants").items()}
        if contestants:
            own["contestants"] = contestants
        found = ExperimentSet(
            **own, folder=file.parent.resolve(), experiments=tuple(_experiments(shared, str(own["name"])))
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"'{file}': {f'{place}: ' if place else ''}{said}") from error
    for name, one in found.contestants.items():
        if one.script is not None and not (found.folder / one.script).is_file():
            raise ConfigError(f"'{file}': the script of contestant '{name}' is not there: {found.folder / one.script}")
    for experiment, contestant in itertools.product(found.experiments, found.contestants.values()):
        experiment.resolved(contestant.train)
    return found


def _experiments(shared: Mapping[str, Any], name: str) -> Iterator[Experiment]:
    base, matrix = _mapping(shared.get("base"), "base"), _mapping(shared.get("matrix"), "matrix")
    variants = shared.get("variants") or [{}]
    if not isinstance(variants, list) or not all(isinstance(values, list) for values in matrix.values()):
        raise ConfigError("variants must be a list of experiments, and each key of matrix have a list of values")
    for variant in variants:
        for values in itertools.product(*matrix.values()):
            own = _mapping(variant, "variants")
            chosen = dict(zip(matrix, values, strict=True))
            words = [str(own.get("name", ""))]
            words += [f"{key.rpartition('.')[2]}={_said(value)}" for key, value in chosen.items()]
            title = " ".join(word for word in words if word) or name
            experiment = _experiment({**base, **own, **chosen, "name": title})
            yield experiment
            if experiment.twin is not None:
                yield experiment.twin


def _said(value: Any) -> str:
    """Write a value as a part of a name; lengths as how often each occurs."""
    return ",".join(f"{one}x{times}" for one, times in value.items()) if isinstance(value, dict) else str(value)


def _experiment(given: Mapping[str, Any]) -> Experiment:
    """Tell the keys of the experiment from those of the run's configuration."""
    own: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for key, value in given.items():
        group, _, name = key.partition(".")
        if key in GROUPS and isinstance(value, Mapping):
            settings |= {f"{key}.{inner}": one for inner, one in value.items()}
        elif group in GROUPS and name:
            settings[key] = value
        else:
            own[key] = value
    return Experiment(**own, settings=settings)


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: keys and values are expected, not {value!r}")
    return value
