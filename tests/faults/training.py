"""Trainings of a tiny model that can be taken up again, and all that is compared of them."""

from pathlib import Path

import torch
from transformers import TrainerCallback

from peftkit.adapter.attach import WEIGHTS, save_adapter

from ..train.families import Run, configuration, examples

ROWS = 34  # 17 batches of two: with four batches to a step, the last step of an epoch takes one
PRECISIONS = {
    "float32": {"quantization": "none", "dtype": "float32"},
    "bfloat16": {"quantization": "none", "dtype": "bfloat16"},
    "nf4": {"quantization": "nf4", "dtype": "bfloat16"},
    "int8": {"quantization": "int8", "dtype": "float32"},
}


class Ledger(TrainerCallback):
    """Writes down each step: its rows, loss, gradient norm and learning rate."""

    def __init__(self):
        self.steps = []
        self.trainer = None

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            rows = [list(rows) for rows in self.trainer.rows_of_step]
            self.steps.append((state.global_step, rows, logs["loss"], float(logs["grad_norm"]), logs["learning_rate"]))


def settings(family="causal", **train):
    """A configuration of four epochs whose every step is saved and kept."""
    usual = {
        "max_steps": 0,
        "num_train_epochs": 4.0,
        "per_device_train_batch_size": 2,
        "save_steps": 1,
        "save_total_limit": 999,
        "lr_scheduler_type": "cosine",
    }
    return configuration(family, **{**usual, **train})


def without_saves(config):
    return config.model_copy(update={"train": config.train.model_copy(update={"save_steps": 0, "save_minutes": 0.0})})


class Trained:
    """A training that has ended.

    Attributes:
        steps: The lines of the ledger.
        adapter: The bytes of the adapter's weights.
        per_epoch: Optimizer steps of an epoch.
        checkpoints: Folder of the checkpoints.
    """

    def __init__(self, folder: Path, config, family="causal", resume: Path | None = None, rows: int = ROWS):
        torch.rand(5)  # whatever was drawn before must not matter
        ledger = Ledger()
        run = Run(folder, family, config, examples(family, config, rows), [ledger])
        ledger.trainer = run.trainer
        run.trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        save_adapter(run.model, folder / "adapter")
        self.steps = ledger.steps
        self.adapter = (folder / "adapter" / WEIGHTS).read_bytes()
        self.per_epoch = round(run.trainer.state.max_steps / config.train.num_train_epochs)
        self.checkpoints = folder / "checkpoints"


def differences(alone: Trained, saved: Trained, folder: Path, config, steps, family="causal", rows: int = ROWS):
    """Take a saved training up after each of some steps, and return those steps that did not end as the one alone."""
    different = []
    for step in steps:
        start = saved.checkpoints / f"checkpoint-{step}"
        resumed = Trained(folder / f"after-{step}", without_saves(config), family, start, rows)
        later = [line for line in alone.steps if line[0] > step]
        if (resumed.steps, resumed.adapter) != (later, alone.adapter):
            different.append(step)
    return different


def both(folder: Path, config, family="causal", rows: int = ROWS) -> tuple[Trained, Trained]:
    """Train once without saves and once with them; neither may change the other's course."""
    alone = Trained(folder / "alone", without_saves(config), family, rows=rows)
    saved = Trained(folder / "saved", config, family, rows=rows)
    assert (saved.steps, saved.adapter) == (alone.steps, alone.adapter)
    return alone, saved
