"""peftkit as a contestant: its own parts, as `peftkit run` puts them together."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.bench.contestant import compete
from peftkit.bench.job import Job

if TYPE_CHECKING:
    from peftkit.config import RunConfig
    from peftkit.data.examples import Example


def train(job: Job, folder: Path) -> dict[str, Any]:
    """Train a job with peftkit; the command line's third word holds more keys of `train.*` as JSON."""
    from peftkit import machine
    from peftkit.adapter.attach import attach
    from peftkit.bench.stopwatch import Stopwatch
    from peftkit.config import RunConfig
    from peftkit.model.load import Source, load_model, load_tokenizer
    from peftkit.train.trainers import make_trainer

    machine.quiet_libraries()
    own = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    asked = RunConfig.model_validate({**job.config, "train": {**job.config["train"], **own}})
    config = _without_saves(asked, same_batches=job.same_batches)
    source = Source(job.model)
    model = attach(
        load_model(source, config, "causal"),
        config.adapter,
        base=config.model,
        seed=config.train.seed,
        steps=job.steps,
    )
    watch = Stopwatch(job)
    trainer = make_trainer(model, "causal", load_tokenizer(source), _examples(job), config, folder, [watch])
    watch.watch(trainer)
    trainer.train()
    return watch.result()


def _without_saves(config: RunConfig, *, same_batches: bool) -> RunConfig:
    """Return the configuration with a loss for each step, no checkpoints, and rows in the order given if asked."""
    extra = {**config.train.extra, "save_strategy": "no"}
    if same_batches:
        extra["train_sampling_strategy"] = "sequential"
    changed = {"extra": extra, "logging_steps": 1, "save_minutes": 0.0}
    return config.model_copy(update={"train": config.train.model_copy(update=changed)})


def _examples(job: Job) -> list[Example]:
    from peftkit.data.examples import IGNORED, Example

    found = []
    for ids, labels in zip(job.input_ids, job.labels, strict=True):
        first = next((place for place, one in enumerate(labels) if one != IGNORED), len(labels))
        kept = [one != IGNORED for one in labels[first:]]
        trained = None if all(kept) else kept
        found.append(Example("", {}, "", ids[:first], ids[first:], truncated=False, trained=trained))
    return found


if __name__ == "__main__":
    compete(train)
