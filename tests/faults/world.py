"""A small run that nothing happened to, which the others are compared with, and one that was stopped on its way."""

import functools
import gc
import signal
import tempfile
from pathlib import Path

import torch

from peftkit.pipeline import run
from peftkit.plan import calibration

from ..small import write_model, write_reviews
from .children import at_step, in_a_child, kill

_FOLDER = tempfile.TemporaryDirectory(prefix="peftkit-faults-")
WORDS = (
    "data.test_fraction=0.2",
    "train.max_length=256",
    "train.max_steps=12",
    "adapter.lora_dropout=0.1",
    "adapter.r=4",
    "model.quantization=none",
    "model.dtype=float32",
    "train.gradient_accumulation_steps=1",
    "evaluate.max_rows=4",
    "evaluate.bootstrap_samples=5",
)
INTERVAL = 3  # steps between two saves, unless another number is asked for


@functools.cache
def alone(save_steps: int = INTERVAL) -> tuple[list[str], Path]:
    """Return the words of a run, and the folder of one that was left alone; forks of this process start warm then."""
    torch.set_num_threads(1)
    folder = Path(_FOLDER.name)
    calibration._file = lambda: folder / "steps.jsonl"  # what runs take here is not kept among the user's own times
    model, rows = folder / "model", folder / "reviews.jsonl"
    if not model.exists():
        write_model(model)
        write_reviews(rows)
    words = [f"model.path={model}", f"data.path={rows}", f"train.save_steps={save_steps}", *WORDS]
    done = run("sentiment", words=words, out=folder / f"run-{save_steps}").folder
    gc.freeze()  # a collection in a fork need not look at all that was imported
    return words, done


@functools.cache
def stopped() -> Path:
    """Return the folder of a run that was stopped after its fifth step; its checkpoints are those of 3 and 5."""
    words, _ = alone()
    out = Path(_FOLDER.name) / "stopped"
    argv = ["run", "sentiment", *words, "--out", out]
    assert in_a_child(argv, lambda: at_step(5, lambda: kill(signal.SIGTERM))) == 128 + signal.SIGTERM
    return out
