"""When a training is saved, and when it stops: every so many steps or minutes, at a signal, before the time is up."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from peftkit.checkpoint.folders import Checkpoints, Fill
from peftkit.config import TrainConfig
from peftkit.errors import OutputError
from peftkit.memory.exhausted import Failure, give_back, is_out_of_memory
from peftkit.stopping import Stop

MOST_FAILED = 3
"""Saves in a row that may fail; the training goes on meanwhile."""
_DEAREST = 50  # a save by the clock waits until training took so many times what the last save took: 2% at most
_AGAIN = 60.0  # seconds after which a save that failed is tried again


class Saving:
    """Decides about saves and keeps count of those that fail.

    Args:
        checkpoints: Where they go.
        config: `save_steps` and `save_minutes`.
        stop: Whether the run was asked to stop.
        warn: Told of each save that fails.
        identity: Fingerprint of the run, which each checkpoint holds.
        out_of_memory: Told of each save for which there was no memory, and of its step.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        config: TrainConfig,
        *,
        stop: Stop | None = None,
        warn: Callable[[str], None] = lambda text: None,
        identity: str = "",
        out_of_memory: Callable[[Failure, int], None] = lambda failure, step: None,
    ) -> None:
        self.checkpoints = checkpoints
        self.identity = identity
        self.stop = stop or Stop()
        self.seconds = 0.0
        """What all saves took."""
        self._minutes = 0.0 if config.save_steps else config.save_minutes
        self._warn = warn
        self._out_of_memory = out_of_memory
        self._failed = 0
        self._last = 0.0
        self._longest_step = 0.0
        self._step_began = self._next = time.monotonic()

    def begin(self) -> None:
        """Start the clock."""
        self._step_began = time.monotonic()
        self._next = self._step_began + 60 * self._minutes

    def is_due(self) -> bool:
        """Whether to save after this step."""
        now = time.monotonic()
        self._longest_step = max(self._longest_step, now - self._step_began)
        self.stop.look_at_clock(1.5 * self._longest_step + 2 * self._last)
        return self.stop.asked or bool(self._minutes and now >= self._next)

    def save(self, step: int, fill: Fill) -> Path | None:
        """Save; where that fails, the training goes on without.

        Raises:
            OutputError: It failed too often in a row.
        """
        begun = time.monotonic()
        try:
            saved = self._save(step, fill)
        except OutputError as error:
            self._failed += 1
            newest = self.checkpoints.newest_step
            kept = "there is no checkpoint yet" if newest is None else f"the newest checkpoint is that of step {newest}"
            if self._failed > MOST_FAILED:
                raise OutputError(f"{error}; {self._failed} saves failed, and {kept}; make room, then go on") from error
            self._warn(f"step {step} was not saved: {error}; the training goes on, and {kept}")
            self._next = time.monotonic() + _AGAIN
            return None
        self._failed = 0
        now = time.monotonic()
        self._last = now - begun
        self.seconds += self._last
        self._next = now + max(60 * self._minutes, _DEAREST * self._last)
        return saved

    def _save(self, step: int, fill: Fill) -> Path:
        """Save; memory that runs out is one more reason why that may fail.

        Raises:
            OutputError: It failed.
        """
        try:
            return self.checkpoints.save(step, fill)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failure = give_back(error, "save")
        self._out_of_memory(failure, step)
        raise OutputError(f"memory ran out: {failure.said}")

    def step_begins(self) -> None:
        """Note when a step began, to know how long one takes."""
        self._step_began = time.monotonic()
