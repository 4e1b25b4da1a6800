"""How a run is stopped so that nothing is lost: by a signal, or by a limit of time."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from peftkit.errors import ConfigError

TIME_IS_UP = 75  # the system's code for "try again later"
_SIGNALS = ("SIGTERM", "SIGINT") if sys.platform == "win32" else ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
_SHARE = 0.02  # of the limit that is left for what comes after the last save
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")


class Stopped(KeyboardInterrupt):
    """A run was asked to stop, and did.

    Attributes:
        reason: What asked.
        exit_code: 128 and the signal's number, or 75 when the time was up.
    """

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.exit_code = exit_code


class Stop:
    """Whether a run was asked to stop, and whether its time is up.

    Args:
        limit: Seconds that the run may take from now; None for any time.
    """

    def __init__(self, limit: float | None = None) -> None:
        self._limit = limit
        self._started = time.monotonic()
        self._number: int | None = None
        self._late = False
        self._waits = False
        self._interrupted = False
        self._process = os.getpid()

    @property
    def asked(self) -> bool:
        """Whether the run is to stop as soon as all is saved."""
        return self._number is not None or self._late

    def look_at_clock(self, needed: float) -> None:
        """Stop if the time that is left is less than what the next step and a save need, in seconds."""
        if self._limit is not None:
            left = self._limit - (time.monotonic() - self._started)
            self._late = self._late or left < needed + _SHARE * self._limit

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Let what happens inside come to a point where all is saved, and leave after it.

        Raises:
            Stopped: The run was asked to stop.
        """
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
        self.require_none()
        if self._late:
            raise Stopped("the limit of time", TIME_IS_UP)

    def require_none(self) -> None:
        """Leave if a signal came and nobody heard of it: Python drops what is raised while an object goes.

        Raises:
            Stopped: The run was asked to stop.
        """
        if self._number is not None:
            self._leave(self._number)

    @contextmanager
    def before_errors(self) -> Iterator[None]:
        """Leave where a library that was interrupted raises an error of its own, such as one of a file that it closed.

        Raises:
            Stopped: In place of an error that came after a signal.
        """
        try:
            yield
        except Exception as error:
            if self._interrupted and self._number is not None:
                raise Stopped(signal.Signals(self._number).name, 128 + self._number) from error
            raise

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take signals, where this thread may; the handlers that were there before come back.

        What is ignored stays ignored, as `nohup` asks for. After a first signal the system's own handling is back, so
        that a second one ends the process at once.
        """
        before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in _SIGNALS):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, self._take)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker that reads rows leaves when its parent does
            return
        self._number = number
        for name in _SIGNALS:
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        if not self._waits:
            self._interrupted = True
            self._leave(number)

    def _leave(self, number: int) -> None:
        raise Stopped(signal.Signals(number).name, 128 + number)


def seconds_of(text: str | None) -> float | None:
    """Read a duration such as `3h`, `90m`, `1h30m` or `45s`; None stays None.

    Raises:
        ConfigError: It is none.
    """
    if text is None:
        return None
    match = _DURATION.fullmatch(text.strip().lower())
    parts = [int(part or 0) for part in match.groups()] if match else [0]
    if not any(parts):
        raise ConfigError(f"--time-limit {text} is no time; write for example 3h, 90m or 1h30m")
    hours, minutes, seconds = parts
    return 3600.0 * hours + 60 * minutes + seconds
