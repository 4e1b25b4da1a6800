"""Losses that stand out from those before."""

from __future__ import annotations

import math
import statistics
from collections import deque

_WINDOW = 50
_FEWEST = 20  # losses before which nothing stands out
_TIMES = 8.0  # deviations above the median: noise of a few rows to a batch reaches four
_LEAST = 0.5  # and this share of the median, since an even loss has next to no deviation


class Spikes:
    """Compares each loss with the median of the fifty before it."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=_WINDOW)
        self.usual = 0.0
        """The median before the loss that was looked at last."""

    def look(self, loss: float | str) -> bool:
        """Return whether a loss jumped: by eight times 1.4826 times the median deviation, and by half of the median.

        The factor makes the median deviation one standard deviation of normal noise.
        """
        value = float(loss)
        jumped = False
        if len(self._losses) >= _FEWEST and math.isfinite(value):
            self.usual = statistics.median(self._losses)
            deviation = 1.4826 * statistics.median(abs(one - self.usual) for one in self._losses)
            jumped = value - self.usual > max(_TIMES * deviation, _LEAST * abs(self.usual))
        if math.isfinite(value):
            self._losses.append(value)
        return jumped
