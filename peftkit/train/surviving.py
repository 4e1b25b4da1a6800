"""Training that goes on when memory runs out: smaller micro-batches, from the last whole step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from peftkit.errors import MemoryGoneError
from peftkit.memory.exhausted import Failure, give_back, is_out_of_memory
from peftkit.memory.retries import Retries
from peftkit.train.shrinking import ShrinkingTrainer


def look_at_worst_batch(trainer: ShrinkingTrainer, retries: Retries, step: int = 0) -> None:
    """Pass the batch that needs most memory, and take smaller ones until it passes.

    Args:
        trainer: Not training yet.
        retries: Those of the run.
        step: The step that the run will go on after.

    Raises:
        MemoryGoneError: It does not pass, however small.
    """
    while True:
        try:
            trainer.look_at_worst_batch()
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failure = give_back(error, "the longest rows")
        _shrink(trainer, retries, failure, step)


def train_through(
    trainer: ShrinkingTrainer,
    retries: Retries,
    start: Path | None = None,
    goes_on_after: Callable[[int], None] = lambda step: None,
) -> None:
    """Train; where memory runs out, go on from the last whole step, never from weights that are changed in part.

    Args:
        trainer: Not training yet.
        retries: Those of the run.
        start: The checkpoint to begin with.
        goes_on_after: Told after which step the training is taken up again.

    Raises:
        MemoryGoneError: Smaller micro-batches did not help, or there are none.
    """
    while True:
        try:
            trainer.train(resume_from_checkpoint=None if start is None else str(start))
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failure = give_back(error)
        start = trainer.save_last_step()
        trainer.leave()
        step = trainer.saving.checkpoints.newest_step
        if start is None or step is None:
            raise MemoryGoneError(
                f"memory ran out in training ({failure.where}), and there is no checkpoint to take up: {failure.said}"
            )
        _shrink(trainer, retries, failure, step)
        goes_on_after(step)


def _shrink(trainer: ShrinkingTrainer, retries: Retries, failure: Failure, step: int) -> None:
    rows, passes = trainer.micro_batch
    if not trainer.can_shrink:
        raise MemoryGoneError(
            f"memory ran out in training ({failure.where}), and with several processes or GPUs, rows that are dropped, "
            f"or a sampling strategy of your own, batches are not made smaller: {failure.said}"
        )
    trainer.take_batches(*retries.shrink_training(failure, rows, passes, step))
