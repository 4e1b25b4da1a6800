"""Deep models, traced as two shallow ones: memory and work of each phase grow by the same amount with every layer."""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftkit.config import RunConfig
from peftkit.plan.judging import Judged
from peftkit.plan.step import Batch, Device, trace_step
from peftkit.plan.work import Cost, Work

if TYPE_CHECKING:
    from peftkit.model.family import Family

_LEAST = 4
"""Layers of the shallower model, at least: the first and the last are unlike those between them."""


@dataclass(frozen=True)
class Outline:
    """What a trace comes to.

    Attributes:
        tops: The most that was alive at once in each phase.
        work: What was computed.
    """

    tops: dict[str, int]
    work: Work

    @property
    def peak(self) -> int:
        """The most of all phases."""
        return max(self.tops.values())


def outline(
    settings: Any, config: RunConfig, family: Family, batch: Batch, device: Device, judged: Judged | None = None
) -> Outline:
    """Trace a step at two depths and extrapolate to the model's own, or directly where it is not deep."""
    depths = shallow_depths(settings, config)
    if depths is None:
        return _trace(settings, config, family, batch, device, judged)
    less, more = (_trace(shallow(settings, depth), config, family, batch, device, judged) for depth in depths)
    steps = (settings.num_hidden_layers - depths[0]) / (depths[1] - depths[0])
    tops = {name: round(size + steps * (more.tops[name] - size)) for name, size in less.tops.items()}
    work = Work({name: _grown(costs, more.work.of[name], steps) for name, costs in less.work.of.items()})
    return Outline(tops, work)


def shallow_depths(settings: Any, config: RunConfig) -> tuple[int, int] | None:
    """Return the two depths that a model is traced at; None where it is not worth it, or its layers have no number."""
    layers = getattr(settings, "num_hidden_layers", None)
    if layers is None or settings.is_encoder_decoder or config.adapter.extra:
        return None
    kinds = getattr(settings, "layer_types", None) or ["full"]
    period = next(size for size in range(1, len(kinds) + 1) if _repeats(kinds, size))
    every = (config.train.extra.get("activation_checkpointing_kwargs") or {}).get("every_n_layers", 1)
    period = math.lcm(period, every)
    # Both leave the same rest as the whole, so that what a last, incomplete period adds is in both of them.
    rest = layers % period
    first = -(-_LEAST // period) * period + rest
    second = first + max(period, -(-_LEAST // period) * period)
    return (first, second) if second < layers else None


def shallow(settings: Any, layers: int) -> Any:
    """Return a model's configuration with fewer layers."""
    fewer = copy.deepcopy(settings)
    fewer.num_hidden_layers = layers
    if getattr(settings, "layer_types", None):
        fewer.layer_types = list(settings.layer_types[:layers])
    return fewer


def _repeats(kinds: list[str], size: int) -> bool:
    return all(kind == kinds[place % size] for place, kind in enumerate(kinds))


def _trace(
    settings: Any, config: RunConfig, family: Family, batch: Batch, device: Device, judged: Judged | None
) -> Outline:
    traced = trace_step(settings, config, family, batch, device, judged)
    return Outline({name: top.bytes for name, top in traced.trace.tops.items()}, traced.work)


def _grown(less: Counter[Cost], more: Counter[Cost], steps: float) -> Counter[Cost]:
    return Counter({cost: round(less[cost] + steps * (more[cost] - less[cost])) for cost in {*less, *more}})
