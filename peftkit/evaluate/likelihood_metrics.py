"""Metrics of how likely a model finds the held-out text itself, without generating any."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from peftkit.evaluate.metric import Judged, Metric, quotient, ratio

if TYPE_CHECKING:
    from peftkit.evaluate.answers import Answer
    from peftkit.evaluate.metric import Table

_KINDS = ("chat", "completion")


def _per_token(value: Callable[[Answer], float]) -> Callable[[Judged], Table]:
    return lambda judged: ratio([(value(answer), float(answer.tokens)) for answer in judged.answers])


def _perplexity(totals: Table) -> float:
    mean = quotient(totals)
    return math.exp(mean) if mean < 700 else math.inf  # e ** 709 is the largest float


LIKELIHOOD_METRICS: Sequence[Metric] = (
    Metric(
        "perplexity", "Perplexity", _per_token(lambda answer: answer.nll), _perplexity, False, "lower", kinds=_KINDS
    ),
    Metric(
        "loss", "Loss (nats per token)", _per_token(lambda answer: answer.nll), quotient, False, "lower", kinds=_KINDS
    ),
    Metric("token_accuracy", "Token accuracy", _per_token(lambda answer: answer.hits), quotient, kinds=_KINDS),
)
