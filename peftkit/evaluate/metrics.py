"""The metrics that a recipe can name."""

from __future__ import annotations

from collections.abc import Sequence

from peftkit.errors import ConfigError
from peftkit.evaluate.label_metrics import LABEL_METRICS
from peftkit.evaluate.likelihood_metrics import LIKELIHOOD_METRICS
from peftkit.evaluate.metric import Metric
from peftkit.evaluate.score_metrics import SCORE_METRICS
from peftkit.evaluate.text_metrics import TEXT_METRICS

METRICS = {metric.key: metric for metric in (*LABEL_METRICS, *TEXT_METRICS, *SCORE_METRICS, *LIKELIHOOD_METRICS)}


def find_metrics(metrics: Sequence[str | Metric], kind: str | None = None) -> list[Metric]:
    """Return metrics by name; a recipe's own stay as they are.

    Args:
        metrics: Names, or metrics.
        kind: The `task.kind` that they must be able to judge.

    Raises:
        ConfigError: There is no metric of that name, or one is for tasks of another kind.
    """
    for one in metrics:
        if isinstance(one, str) and one not in METRICS:
            raise ConfigError(f"there is no metric '{one}'; there are: {', '.join(METRICS)}")
    found = [METRICS[one] if isinstance(one, str) else one for one in metrics]
    for metric in found:
        if kind is not None and metric.kinds and kind not in metric.kinds:
            raise ConfigError(
                f"the recipe's metric '{metric.key}' judges task.kind={' or '.join(metric.kinds)}, and not "
                f"task.kind={kind}; take a recipe for that kind of task, or give the recipe other metrics"
            )
    return found
