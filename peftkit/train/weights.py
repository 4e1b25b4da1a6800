"""How much each row counts in the loss: its own weight, times that of its label."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from peftkit.config import RunConfig
from peftkit.data.examples import Example
from peftkit.errors import ConfigError, DataError


def row_weights(examples: Sequence[Example], config: RunConfig) -> list[float]:
    """Return each example's weight; where a row may have several labels, theirs are left to `positive_weights`.

    Raises:
        ConfigError: `train.class_weights` names no label of the task, or all weights are zero.
        DataError: A row's weight is no number from zero up.
    """
    for example in examples:
        if not (math.isfinite(example.weight) and example.weight >= 0):
            raise DataError(
                f"{example.where}: {config.data.weight_column}={example.weight} is no weight; give a number from 0 up"
            )
    by_label = _class_weights(examples, config) if not config.task.multi_label else {}
    weights = [example.weight * by_label.get(example.expected, 1.0) for example in examples]
    if not any(weights):
        raise ConfigError("all training rows have weight 0, so nothing would be learned; give some a weight above 0")
    return weights


def positive_weights(examples: Sequence[Example], config: RunConfig) -> list[float]:
    """Return the weight of each of several labels where it is right, in the order of `task.labels`.

    `train.balance_classes` takes the rows without the label over the rows with it, so that both sides weigh the same.

    Raises:
        ConfigError: `train.class_weights` names no label of the task.
    """
    labels = config.task.labels or ()
    if not config.train.balance_classes:
        by_label = _class_weights(examples, config)
        return [by_label.get(label, 1.0) for label in labels]
    targets = [example.target for example in examples if isinstance(example.target, tuple)]
    right = [sum(of_label) for of_label in zip(*targets, strict=True)]
    return [(len(targets) - count) / count if count else 1.0 for count in right]


def _class_weights(examples: Sequence[Example], config: RunConfig) -> Mapping[str, float]:
    """Return each label's weight: as given, or n / (labels * rows of the label) as scikit-learn balances them."""
    labels = config.task.labels or ()
    if config.train.balance_classes:
        counts = Counter(example.expected for example in examples)
        return {label: len(examples) / (len(counts) * count) for label, count in counts.items()}
    for name in config.train.class_weights:
        if name not in labels:
            raise ConfigError(f"train.class_weights.{name}: there is no such label; there are: {', '.join(labels)}")
    return config.train.class_weights
