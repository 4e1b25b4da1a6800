"""The worst batches first: what would run out of memory late in a run does so before its first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftkit.config import RunConfig
from peftkit.memory.retries import Retries
from peftkit.stages import FoundModel, judge_rows, worst_to_judge
from peftkit.ui import UI

if TYPE_CHECKING:
    from peft import PeftModel

    from peftkit.data.prepare import Prepared
    from peftkit.train.shared import SharedTrainer

FEWEST_BATCHES = 4
"""Batches of held-out rows for which the longest one is judged first: fewer are soon judged anyway."""


def worst_batches_first(
    trainer: SharedTrainer,
    model: PeftModel,
    base: FoundModel,
    data: Prepared,
    config: RunConfig,
    retries: Retries,
    step: int,
) -> None:
    """Train on the longest training rows and judge the longest held-out ones; nothing of the run is changed by it.

    Args:
        trainer: Not training yet.
        model: The model with its adapter.
        base: The base model.
        data: The rows.
        config: The run's configuration.
        retries: Told of batches that were too large.
        step: The step that the run goes on after.

    Raises:
        MemoryGoneError: They do not pass, however small.
    """
    from peftkit.checkpoint.random_state import random_state, set_random_state
    from peftkit.train.surviving import look_at_worst_batch

    if not config.train.worst_batch_first:
        return
    if trainer.is_long:
        look_at_worst_batch(trainer, retries, step)
    size = retries.judged_at_once or config.evaluate.batch_size
    if len(data.test) >= FEWEST_BATCHES * size:
        before = random_state()
        longest = worst_to_judge(data.test, config, size)
        judge_rows(model, base.family, base.encoder, longest, config, UI(quiet=True), "", retries)
        set_random_state(*before)
