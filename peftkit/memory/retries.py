"""What a run does when memory runs out: smaller batches, at most four times, written down so that it stays so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from peftkit.config import RunConfig
from peftkit.errors import MemoryGoneError, OutputError
from peftkit.memory.exhausted import Failure
from peftkit.rundir import read_json, write_json

MOST = 4
"""How often training is tried with a smaller micro-batch, and how often judging is with fewer rows at once."""


def smaller_batch(rows: int, passes: int) -> tuple[int, int] | None:
    """Return half the rows of a forward pass and twice the passes of a step, or the next numbers that divide a step.

    The rows of a step stay the same, and so do their order and what the loss is divided by.

    Args:
        rows: Of a forward pass.
        passes: Of an optimizer step.

    Returns:
        Rows and passes; None where there is one row only.
    """
    together = rows * passes
    fitting = [size for size in range(1, rows // 2 + 1) if together % size == 0]
    return (fitting[-1], together // fitting[-1]) if fitting else None


class Retries:
    """The retries of one run.

    Args:
        file: Where they stand, so that a run that is taken up does not begin large again; None keeps them here only.
        warn: Told of each.
    """

    def __init__(self, file: Path | None = None, warn: Callable[[str], None] = lambda text: None) -> None:
        self._file = file
        self._warn = warn
        self.events: list[dict[str, Any]] = []
        """What happened, in its order: `where`, the `step` that the run goes on after, and what is smaller since."""
        if file is not None and file.is_file():
            self.events = read_json(file)["retries"]

    @property
    def micro_batch(self) -> tuple[int, int] | None:
        """Rows of a forward pass and passes of a step since the last retry; None where there was none."""
        return next(((one["rows"], one["passes"]) for one in reversed(self.events) if "passes" in one), None)

    @property
    def judged_at_once(self) -> int | None:
        """Rows that are judged at once since the last retry; None where there was none."""
        return next((one["judged"] for one in reversed(self.events) if "judged" in one), None)

    def applied(self, config: RunConfig) -> RunConfig:
        """Return a configuration with the batches that were used in the end."""
        train, evaluate = config.train, config.evaluate
        if self.micro_batch is not None:
            rows, passes = self.micro_batch
            keys = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": passes}
            extra = {name: value for name, value in train.extra.items() if name not in keys}
            train = train.model_copy(update={**keys, "extra": extra})
        if self.judged_at_once is not None:
            evaluate = evaluate.model_copy(update={"batch_size": self.judged_at_once})
        return config.model_copy(update={"train": train, "evaluate": evaluate})

    def shrink_training(self, failure: Failure, rows: int, passes: int, step: int) -> tuple[int, int]:
        """Return the rows and passes to go on with after a step.

        Raises:
            MemoryGoneError: One row at a time was too much, or all retries are used up.
        """
        smaller = smaller_batch(rows, passes)
        tried = sum("passes" in one for one in self.events)
        if smaller is None or tried == MOST:
            raise MemoryGoneError(
                f"memory ran out in training ({failure.where}) with {_rows(rows)} at once{_times(tried)}: "
                f"{failure.said}"
            )
        self._note(
            {"where": failure.where, "step": step, "rows": smaller[0], "passes": smaller[1], "said": failure.said},
            f"the training goes on after step {step} with {_rows(smaller[0])} at once and {smaller[1]} passes to a step"
            f" (retry {tried + 1} of {MOST})",
        )
        return smaller

    def shrink_judging(self, failure: Failure, size: int, tried: int) -> int:
        """Return the rows to judge at once from now on.

        Args:
            failure: What happened.
            size: Rows that were judged at once.
            tried: Retries before, with these rows.

        Raises:
            MemoryGoneError: One row was too much, or all retries are used up.
        """
        if size == 1 or tried == MOST:
            raise MemoryGoneError(
                f"memory ran out while {_rows(size)} {'was' if size == 1 else 'were'} judged at once{_times(tried)}: "
                f"{failure.said}"
            )
        half = size // 2
        step = self.events[-1]["step"] if self.events else 0
        self._note(
            {"where": failure.where, "step": step, "judged": half, "said": failure.said},
            f"rows are judged again, {half} at once (retry {tried + 1} of {MOST})",
        )
        return half

    def again(self, failure: Failure, step: int = 0) -> None:
        """Note that something is tried once more as it is, after what was not needed was given back."""
        self._note({"where": failure.where, "step": step, "said": failure.said}, "it is tried once more")

    def not_saved(self, failure: Failure, step: int) -> None:
        """Note that a step was not saved; what is said of it is said with the other saves that fail."""
        self.events.append({"where": failure.where, "step": step, "said": failure.said})
        self._write()

    def _note(self, event: dict[str, Any], what: str) -> None:
        self.events.append(event)
        self._warn(f"memory ran out ({event['where']}): {event['said']}; {what}")
        self._write()

    def _write(self) -> None:
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._file, {"retries": self.events})
        except (OSError, OutputError) as error:  # it goes on all the same; taken up later, it would begin large again
            self._warn(f"'{self._file}' cannot be written: {error}")


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _times(tried: int) -> str:
    return f" after {tried} {'retry' if tried == 1 else 'retries'}" if tried else ""
