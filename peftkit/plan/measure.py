"""The same counting on a real run: what the forecast is held against."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.config import RunConfig
from peftkit.plan.ledger import Ledger, Trace
from peftkit.plan.step import Batch, adopt_model, examples

if TYPE_CHECKING:
    from peftkit.model.family import Family


def measure_run(config: RunConfig, family: Family, batch: Batch) -> Trace:
    """Load a run's model, train it for two optimizer steps on rows of a known size, and count live storages meanwhile.

    Args:
        config: The run's configuration; its model must be a local one.
        family: How the model answers.
        batch: The rows of each forward pass.
    """
    from peftkit import machine
    from peftkit.adapter.attach import attach
    from peftkit.model.family import TASK_TYPES
    from peftkit.model.load import find_model, load_model, load_tokenizer
    from peftkit.train.trainers import make_trainer

    source = find_model(config.model)
    base = load_model(source, config, family)
    task, steps = TASK_TYPES[family], 2
    model = attach(
        base, config.adapter, base=config.model, seed=config.train.seed, task_type=task, steps=config.train.max_steps
    )
    config = config.model_copy(update={"train": config.train.model_copy(update={"max_steps": steps})})
    rows = examples(family, config, batch, steps * config.train.gradient_accumulation_steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(model, family, load_tokenizer(source), rows, config, Path(folder) / "checkpoints")
        trainer.args.save_strategy = "no"
        ledger = Ledger(machine.device())
        adopt_model(ledger, model)
        with ledger:
            trainer.train()
    return ledger.trace
