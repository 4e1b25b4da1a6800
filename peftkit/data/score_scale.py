"""Scores in standard units: what a head learns for a score, and back.

A head starts near zero and Adam moves each of its parameters by at most about the learning rate a step, so a score of
80 would take thousands of steps to reach. In standard units every scale of scores is learned alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from peftkit.config import RunConfig, TaskConfig
from peftkit.data.rows import Row


def with_score_scale(config: RunConfig, rows: Sequence[Row]) -> RunConfig:
    """Return the configuration with mean and standard deviation of the rows' scores, where it names none."""
    task = config.task
    if task.kind != "regression" or (task.score_mean is not None and task.score_std is not None):
        return config
    scores = [float(row.values["score"]) for row in rows]
    found = {
        "score_mean": statistics.fmean(scores) if task.score_mean is None else task.score_mean,
        "score_std": (statistics.pstdev(scores) or 1.0) if task.score_std is None else task.score_std,
    }
    return config.model_copy(update={"task": task.model_copy(update=found)})


def to_standard(score: float, task: TaskConfig) -> float:
    """Return what a head learns for a score: the score itself where no scale is known."""
    return (score - (task.score_mean or 0.0)) / (task.score_std or 1.0)


def from_standard(output: float, task: TaskConfig) -> float:
    """Return the score that a head's output stands for."""
    return (task.score_mean or 0.0) + (task.score_std or 1.0) * output
