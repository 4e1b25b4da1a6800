"""Requests that wait are generated together: one thread, one model, rows that come and go between steps."""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.adapter.trained import worn
from peftkit.serve.mixing import Mixer, can_mix
from peftkit.serve.rows import Job, Piece, Rows

if TYPE_CHECKING:
    from peft import PeftModel

STOPPING = "the server is stopping"
_LONGEST_RETRY = 60  # seconds; clients of OpenAI's wait no longer than that


class QueueFull(Exception):
    """No more requests are taken now.

    Args:
        retry_after: Seconds after which there is likely a place.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"too many requests wait; try again in {retry_after} s")
        self.retry_after = retry_after


class Stopping(Exception):
    """No more requests are taken at all."""


class Engine:
    """Generates answers for requests, in a thread of its own.

    A batch begins with the request that has waited longest, and takes in those that go with it: all of them where PEFT
    can mix adapters in one batch, else those of the same adapter. While it runs, those that wait join between two
    steps, in their order, so that none is overtaken by later ones.

    Args:
        model: The base model with its adapters.
        padding: Id of the token that prompts are padded with.
        max_batch: Most answers at once.
        max_waiting: Most requests that wait beside those.
        report: Told what went wrong, without any text of a request.

    Attributes:
        capacity: How many requests there may be, generated and waiting.
        mixer: Mixes adapters in one batch; None where PEFT cannot.
    """

    def __init__(
        self, model: PeftModel, *, padding: int, max_batch: int, max_waiting: int, report: Callable[[str], None]
    ) -> None:
        self._model = model
        self._padding = padding
        self._max_batch = max_batch
        self.capacity = max_batch + max_waiting
        self.mixer = Mixer(model) if can_mix(model) else None
        self._report = report
        self._waiting: list[Job] = []
        self._admitted: list[Job] = []  # those of the batch that runs
        self._seconds = 1.0  # that an answer has taken lately
        self._stopping = self._abandoned = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="peftkit-generate", daemon=True)

    def start(self) -> None:
        """Begin to take requests."""
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take requests, all or none.

        Raises:
            QueueFull: There is no place for all of them.
            Stopping: The server ends.
        """
        with self._changed:
            if self._stopping:
                raise Stopping
            self._forget_cancelled()
            there = len(self._waiting) + self._running()
            if there + len(jobs) > self.capacity:
                seconds = self._seconds * math.ceil(there / self._max_batch)
                raise QueueFull(min(max(1, math.ceil(seconds)), _LONGEST_RETRY))
            self._waiting += jobs
            self._changed.notify()

    def counts(self) -> tuple[int, int]:
        """Return how many answers are generated now, and how many requests wait."""
        with self._changed:
            self._forget_cancelled()
            return self._running(), len(self._waiting)

    def _running(self) -> int:
        """Count the answers that are generated: one that has ended is out before its client knows."""
        return sum(job.writer.finish is None and not job.cancelled for job in self._admitted)

    def _forget_cancelled(self) -> None:
        self._waiting = [job for job in self._waiting if not job.cancelled]

    def stop(self) -> None:
        """Take no more requests, and refuse those that wait; answers that have begun go on to their end."""
        with self._changed:
            self._stopping = True
            refused, self._waiting = self._waiting, []
            self._changed.notify()
        for job in refused:
            job.tell(Piece(failure=STOPPING))

    def join(self) -> None:
        """Give up the answers that are still generated, and wait for the thread's end; call `stop` before."""
        self._abandoned = True
        self._thread.join()

    def _work(self) -> None:
        import torch

        with torch.inference_mode():
            while (first := self._next()) is not None:
                self._generate(first.key)

    def _next(self) -> Job | None:
        """Wait for the request that begins a batch; return it, and leave it in its place. None at the end."""
        with self._changed:
            while True:
                self._forget_cancelled()
                if self._waiting:
                    return self._waiting[0]
                if self._stopping:
                    return None
                self._changed.wait()

    def _generate(self, key: str | None) -> None:
        """Generate a batch until all of its rows have ended, and those that joined."""
        rows = Rows(self._model, padding=self._padding, mixer=self.mixer)
        joining: list[Job] = []
        try:
            with nullcontext() if self.mixer else worn(self._model, key):
                while not self._abandoned:
                    joining = self._admit(rows, key)
                    if joining:
                        rows.join(joining)
                    else:
                        rows.step()
                    joining = []
                    self._learn_from(job for job in self._admitted if job not in rows.jobs)
                    if not rows.jobs:
                        return
        except Exception as error:  # whatever fails in the model must end these requests, and not the server
            with self._changed:
                self._admitted = []
            for job in (*rows.jobs, *joining):
                if job.writer.finish is None:
                    job.tell(Piece(failure="the model failed on this batch of requests"))
            self._report(f"a batch failed: {type(error).__name__} in {_place(error)}")

    def _admit(self, rows: Rows, key: str | None) -> list[Job]:
        """Take requests that go with the batch out of the queue; in their order once it runs."""
        with self._changed:
            self._forget_cancelled()
            free = self._max_batch - len(rows.jobs) if rows.may_join else 0
            admitted: list[Job] = []
            for job in self._waiting:
                goes = self.mixer is not None or job.key == key
                if len(admitted) == free or (rows.jobs and not goes):
                    break
                if goes:
                    admitted.append(job)
            self._waiting = [job for job in self._waiting if job not in admitted]
            self._admitted = [*rows.jobs, *admitted]
        for job in admitted:
            job.begun = time.monotonic()
        return admitted

    def _learn_from(self, ended: Iterable[Job]) -> None:
        """Learn how long an answer takes, as a mean in which each new one counts a fifth."""
        for job in ended:
            self._seconds += (time.monotonic() - job.begun - self._seconds) / 5


def _place(error: BaseException) -> str:
    """Return where an error came from; what it says may hold words of a request."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"
