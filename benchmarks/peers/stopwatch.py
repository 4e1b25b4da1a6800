"""One callback that times every contestant alike."""

import resource
import time
from typing import Any

from transformers import TrainerCallback

WARM_UP = 2  # steps that are not counted


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Keeps the time, the non-padding tokens and the loss at the end of every step."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, int, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep one step; TRL counts `num_tokens` by the attention mask."""
        if logs and "loss" in logs:
            self.steps.append((time.perf_counter(), int(logs["num_tokens"]), float(logs["loss"])))

    def result(self) -> dict[str, Any]:
        """Return tokens per second after the warm-up, and the losses."""
        (begin, before, _), (end, after, _) = self.steps[WARM_UP - 1], self.steps[-1]
        return {
            "tokens": after - before,
            "seconds": round(end - begin, 3),
            "tokens_per_second": round((after - before) / (end - begin), 1),
            "losses": [round(loss, 4) for _, _, loss in self.steps],
            "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
