"""What a run will pass through its model: counted from its rows where they are here, else assumed at the worst."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.config import RunConfig
from peftkit.errors import PeftkitError
from peftkit.model.assets import ASSETS, assets_table
from peftkit.model.convert import EMBEDDED
from peftkit.plan.judging import Judged
from peftkit.plan.step import Batch
from peftkit.resolve import Resolved
from peftkit.train.batches import optimizer_steps

if TYPE_CHECKING:
    from peftkit.data.examples import Example
    from peftkit.model.family import Family

SCORED_TOKENS = 1 << 14  # of a batch whose likelihood is asked for (`peftkit.evaluate.likelihood.MAX_TOKENS`)


@dataclass(frozen=True)
class Workload:
    """The rows of a run.

    Attributes:
        longest: Tokens of the longest training rows.
        trained: Tokens that are trained in the fullest of these.
        mean: Tokens of a training row, on average.
        rows: Training rows; None where that is not known.
        even: Whether all of the longest rows are as long as each other, so that a batch of them needs no padding.
        prompt: Tokens of the longest held-out prompt, or row where likelihood is asked for.
        held_out: Held-out rows that are judged; None where that is not known.
        source: Where the numbers are from.
    """

    longest: int
    trained: int
    mean: float
    rows: int | None = None
    even: bool = False
    prompt: int = 0
    held_out: int | None = None
    source: str = "assumed"

    def batch(self, config: RunConfig) -> Batch:
        """Return the largest batch of training rows."""
        rows = config.train.per_device_train_batch_size
        if config.train.packing:
            return Batch(rows, config.train.max_length, config.train.max_length)
        rows = min(rows, self.rows) if self.rows else rows
        return Batch(rows, self.longest, self.trained, padded=rows > 1 and not self.even)

    def judged(self, config: RunConfig) -> Judged:
        """Return the largest batch of held-out rows."""
        asked = config.evaluate.max_rows if self.held_out is None else self.held_out
        rows = min(config.evaluate.batch_size, asked, config.evaluate.max_rows)
        if config.task.kind in ("chat", "completion"):
            rows = min(rows, max(1, SCORED_TOKENS // self.prompt))
            return Judged(rows, self.prompt, self.prompt - 1)
        return Judged(rows, self.prompt, config.evaluate.max_new_tokens)

    def steps(self, config: RunConfig) -> int | None:
        """Return the optimizer steps of the run; None where neither rows nor steps are known."""
        if self.rows is None:
            return config.train.max_steps or None
        packed = round(self.rows * self.mean / config.train.max_length) if config.train.packing else self.rows
        return optimizer_steps(config.train, max(1, packed))

    def tokens_per_step(self, config: RunConfig) -> float:
        """Return the tokens of an optimizer step, without padding."""
        train = config.train
        rows = train.per_device_train_batch_size * train.gradient_accumulation_steps
        return rows * (train.max_length if train.packing else self.mean)


def workload_of(train: Sequence[Example], test: Sequence[Example], config: RunConfig) -> Workload:
    """Return the workload of encoded rows."""
    lengths = sorted((len(one) for one in train), reverse=True)
    top = lengths[: config.train.per_device_train_batch_size]
    trained = max(one.trained_tokens for one in train if len(one) >= top[-1])
    likelihood = config.task.kind in ("chat", "completion")
    prompts = [len(one) if likelihood else len(one.prompt_ids) for one in test] or [top[0]]
    return Workload(
        longest=top[0],
        trained=trained,
        mean=sum(lengths) / len(lengths),
        rows=len(lengths),
        even=top[0] == top[-1],
        prompt=max(prompts),
        held_out=len(test),
        source="counted in the rows",
    )


def assumed(config: RunConfig, family: Family) -> Workload:
    """Return the most that a configuration allows: every row of `train.max_length`, all of it trained."""
    longest = config.train.max_length
    answer = min(config.evaluate.max_new_tokens, longest - 1)
    answers = config.task.kind in ("generation", "classification")
    short = answers and family == "causal" and config.task.kind == "classification"
    trained = 0 if family == "head" else answer if short else longest
    return Workload(longest, trained, float(longest), prompt=longest, even=True)


def find_workload(resolved: Resolved, family: Family) -> tuple[RunConfig, Workload]:
    """Return the run's rows as far as they are on this machine, and the configuration with its labels.

    Rows are counted in tokens where the tokenizer is here too, and estimated from their characters where it is not.
    Nothing is fetched for it.
    """
    config = resolved.config
    source = Workload.source
    try:
        if _rows_are_here(resolved):
            return _counted(resolved) if _tokenizer_is_here(config) else _estimated(resolved, family)
    except PeftkitError as error:  # the plan is about the machine, and can be made without rows
        source = f"{source}, as the rows cannot be read: {error}"
    if config.task.kind == "classification" and not config.task.labels:
        task = config.task.model_copy(update={"labels": ("one", "other")})
        config = config.model_copy(update={"task": task})
    return config, replace(assumed(config, family), source=source)


def _counted(resolved: Resolved) -> tuple[RunConfig, Workload]:
    from peftkit.stages import prepare
    from peftkit.ui import UI

    config, _, data = prepare(resolved, UI(quiet=True))
    return config, workload_of(data.train, data.test, config)


def _estimated(resolved: Resolved, family: Family) -> tuple[RunConfig, Workload]:
    from peftkit.data.read import read_data
    from peftkit.stages import with_labels

    found = read_data(resolved.config, resolved.recipe)
    config = with_labels(resolved.config, found)
    lengths = sorted(_tokens(row.values, config) for row in found.rows)
    data, worst = config.data, assumed(config, family)
    train = round(len(lengths) * (1 - data.test_fraction - data.validation_fraction))
    test = len(found.held_out) or round(len(lengths) * data.test_fraction)
    return config, replace(
        worst,
        longest=lengths[-1],
        trained=min(worst.trained, lengths[-1]),
        mean=sum(lengths) / len(lengths),
        rows=max(1, min(train, data.train_rows or train)),
        even=False,
        prompt=lengths[-1],
        held_out=min(test, config.evaluate.max_rows),
        source="estimated from the rows' characters",
    )


def _tokens(values: Mapping[str, Any], config: RunConfig) -> int:
    characters = sum(len(value if isinstance(value, str) else repr(value)) for value in values.values())
    template = len(config.task.system or "") + len(config.task.prompt)
    return min(config.train.max_length, _AROUND + math.ceil((characters + template) / _CHARACTERS))


_CHARACTERS = 3.5  # in a token of English text, a little below the 4 to 4.5 that are usual
_AROUND = 16  # tokens of a chat template


def _tokenizer_is_here(config: RunConfig) -> bool:
    folder = Path(config.model.path)
    return config.model.path in _cached() if config.model.path in EMBEDDED else any(folder.glob("*.safetensors"))


def _rows_are_here(resolved: Resolved) -> bool:
    """Whether a run's rows can be read without network, and more than once."""
    data, embedded = resolved.config.data, resolved.recipe.embedded
    if data.path is None:
        return embedded is not None and (embedded.asset not in ASSETS or embedded.asset in _cached())
    return not any(word == "-" or word.startswith(_REMOTE) for word in (*data.path, *(data.test_path or ())))


_REMOTE = ("hf:", "kaggle:", "sql:")


def _cached() -> set[str]:
    return {row["name"] for row in assets_table() if row["cached"]}
