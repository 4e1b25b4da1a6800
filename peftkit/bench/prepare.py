"""The process that runs before the contestants: writes the jobs, forecasts, and says where all this is.

Its parent stays small: on a processor, what it held would be missing in the contestants' memory.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.bench.experiment import Contestant, Experiment, ExperimentSet
from peftkit.bench.job import Job
from peftkit.errors import ConfigError, DataError, PeftkitError

if TYPE_CHECKING:
    from peftkit.config import RunConfig
    from peftkit.data.examples import Example

MADE = "made.json"
"""What this process leaves beside the jobs: what it found out, by experiment, or the error of a user's mistake."""


@dataclass(frozen=True)
class Rows:
    """The rows of an experiment, and the configuration with what was found in them."""

    config: RunConfig
    model: str
    train: Sequence[Example]
    held_out: Sequence[Example]


def main() -> None:
    """Write jobs and findings into a folder that the command line names, for the set in its file."""
    from peftkit import machine

    content, folder, limit = json.loads(Path(sys.argv[1]).read_text("utf-8")), Path(sys.argv[2]), int(sys.argv[3])
    machine.quiet_libraries()
    from peftkit.bench.surroundings import surroundings

    try:
        asked = ExperimentSet.model_validate(content)
        found: dict[str, Any] = {
            "surroundings": surroundings(),
            "experiments": {
                one.name: prepared(one, asked.contestants, folder / str(number), limit or None)
                for number, one in enumerate(asked.experiments)
            },
        }
    except PeftkitError as error:
        found = {"error": str(error), "exit_code": error.exit_code}
    (folder / MADE).write_text(json.dumps(found), encoding="utf-8")


def prepared(
    experiment: Experiment, contestants: Mapping[str, Contestant], folder: Path, limit: int | None
) -> dict[str, Any]:
    """Write an experiment's job into a folder of its own; return where it is, and what is forecast for it.

    Raises:
        ConfigError: The model is no decoder, or its data have too few rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = rows_of(experiment, folder)
    job = job_of(experiment, rows, limit)
    job.write(folder / "job.json")
    lengths = sorted(map(len, job.input_ids))
    return {
        "job": str(folder / "job.json"),
        "forecasts": {
            name: forecast_of(rows, one.train)
            for name, one in contestants.items()
            if one.script is None and experiment.judges is None
        },
        "settings": settings_of_job(job),
        "rows": {"count": len(lengths), "shortest": lengths[0], "median": lengths[len(lengths) // 2]}
        | {"longest": lengths[-1], "tokens": sum(lengths)},
    }


def rows_of(experiment: Experiment, folder: Path) -> Rows:
    """Return an experiment's rows: of its recipe's data, or of the lengths that it names."""
    resolved = experiment.resolved()
    needed = experiment.all_steps * _rows_of_a_step(resolved.config)
    if experiment.lengths is None:
        return _real_rows(experiment, resolved, needed)
    from peftkit.bench.random_model import random_model
    from peftkit.model.load import Source, find_model, settings_of

    config = resolved.config
    if experiment.shapes is None:
        model = find_model(config.model).path
        settings = settings_of(find_model(config.model))
    else:
        place = random_model(experiment.shapes, experiment.layers, config.train.max_length, folder.parent)
        model, settings = str(place), settings_of(Source(str(place)))
    drawn = _drawn(experiment, settings.get_text_config().vocab_size, needed + experiment.held_out_rows)
    return Rows(config, model, drawn[:needed], drawn[needed:])


def _real_rows(experiment: Experiment, resolved: Any, needed: int) -> Rows:
    from peftkit.stages import prepare
    from peftkit.ui import UI

    config, base, data = prepare(resolved, UI(quiet=True))
    if base.family != "causal":
        raise ConfigError(f"'{experiment.name}': {config.model.path} does not write on; take a decoder")
    if len(data.train) < needed:
        raise DataError(
            f"'{experiment.name}' needs {needed} training rows for its steps, and there are {len(data.train)}; "
            "take fewer steps"
        )
    return Rows(config, base.source.path, data.train[:needed], data.test[: experiment.held_out_rows])


def _drawn(experiment: Experiment, vocabulary: int, count: int) -> list[Example]:
    """Draw rows: each length as often as the histogram says, in an order that is always the same."""
    from peftkit.data.examples import Example

    assert experiment.lengths is not None
    draw = random.Random(0)  # noqa: S311 - no secret
    whole = [length for length, times in sorted(experiment.lengths.items()) for _ in range(times)]
    lengths = (whole * -(-count // len(whole)))[:count] if len(whole) > 1 else whole * count
    draw.shuffle(lengths)
    rows = []
    for length in lengths:
        ids = [draw.randrange(2, vocabulary) for _ in range(length)]
        read = min(length - 1, round(length * (1 - experiment.trained)))
        rows.append(Example("", {}, "", ids[:read], ids[read:], truncated=False))
    return rows


def job_of(experiment: Experiment, rows: Rows, limit: int | None) -> Job:
    """Return the job that all contestants get."""
    from peftkit.data.examples import IGNORED
    from peftkit.model.load import resolved_dtype

    config = rows.config
    train, adapter = config.train, config.adapter
    ids, held = ([one.prompt_ids + one.completion_ids for one in group] for group in (rows.train, rows.held_out))
    labels, held_labels = (
        [[IGNORED] * len(one.prompt_ids) + one.trained_ids for one in group] for group in (rows.train, rows.held_out)
    )
    return Job(
        model=rows.model,
        quantization=config.model.quantization,
        dtype=str(resolved_dtype(config.model)).removeprefix("torch."),
        attn_implementation=config.model.attn_implementation,
        method=adapter.method,
        r=adapter.r,
        lora_alpha=adapter.lora_alpha,
        lora_dropout=adapter.lora_dropout,
        target_modules=tuple(adapter.target_modules or ()),
        steps=experiment.all_steps,
        warmup_steps=experiment.warmup_steps,
        batch=train.per_device_train_batch_size,
        accumulation=train.gradient_accumulation_steps,
        max_length=train.max_length,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.lr_scheduler_type,
        warmup_fraction=train.warmup_fraction,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        seed=train.seed,
        same_batches=experiment.same_batches,
        input_ids=ids,
        labels=labels,
        held_out_ids=held,
        held_out_labels=held_labels,
        limit=limit,
        config={
            **config.model_dump(mode="json"),
            "model": {**config.model.model_dump(mode="json"), "path": rows.model},
        },
    )


def settings_of_job(job: Job) -> dict[str, Any]:
    """Return what a result says of a job: all but its rows."""
    left_out = ("model", "input_ids", "labels", "held_out_ids", "held_out_labels", "config", "limit")
    values = {name: value for name, value in vars(job).items() if name not in left_out}
    return {"model": Path(job.model).name, **values, "target_modules": list(job.target_modules)}


def forecast_of(rows: Rows, train: Mapping[str, Any]) -> dict[str, Any]:
    """Return what peftkit forecasts for itself on this machine; `reason` says why there is none.

    Args:
        rows: What is trained.
        train: More keys of `train.*`.
    """
    from peftkit.config import RunConfig
    from peftkit.model.load import Source, settings_of
    from peftkit.plan.forecast import Subject
    from peftkit.plan.plan import forecasts_of
    from peftkit.plan.rates import this_machine
    from peftkit.plan.workload import workload_of

    try:
        values = rows.config.model_dump(mode="json")
        config = RunConfig.model_validate({**values, "train": {**values["train"], **train}})
        subject = Subject(settings_of(Source(rows.model)), config, "causal", workload_of(rows.train, (), config))
        (found,) = forecasts_of(subject, [this_machine()])
    except PeftkitError as error:
        return {"reason": str(error)}
    memory = found.memory
    return {
        "memory": memory.total,
        "allocated": memory.allocated,
        "reserved": memory.reserved,
        "components": memory.components,
        "context": memory.context,
        "seconds_per_step": found.uncalibrated,
    }


def _rows_of_a_step(config: RunConfig) -> int:
    return config.train.per_device_train_batch_size * config.train.gradient_accumulation_steps


if __name__ == "__main__":
    main()
