"""What a trace comes to: bytes by phase and component, and work; of deep models from traces of two shallow ones.

Memory and work of each phase grow by the same amount with every layer, so two depths say what any depth takes.
"""

from __future__ import annotations

import copy
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from peftkit.config import RunConfig
from peftkit.plan.allocator import Taken, replay
from peftkit.plan.judging import Judged
from peftkit.plan.ledger import Top, Trace
from peftkit.plan.offload import STASH
from peftkit.plan.parts import BACKWARD, EVALUATION, FORWARD, HEAD
from peftkit.plan.step import Batch, Device, Traced, trace_step
from peftkit.plan.work import Work

if TYPE_CHECKING:
    from peftkit.model.family import Family

_LEAST = 3
"""Layers of the shallower model, at least: a first, a last, and one between them."""
_MORE = 2
"""Layers that the deeper one has more, at least."""

Components = Mapping[str, int]


@dataclass(frozen=True)
class Outline:
    """What a trace comes to.

    Attributes:
        tops: The most that was alive at once in each phase.
        components: What that was, by phase and component.
        taken: What torch's allocator has of a card.
        work: What was computed.
        trainable: Number of trained parameters.
        frozen: Number of the base model's parameters.
        moved: Most bytes of activations that are in main memory at once.
    """

    tops: Mapping[str, Top]
    components: Mapping[str, Components]
    taken: Taken
    work: Work
    trainable: int
    frozen: int
    moved: int

    def top(self, *, evaluation: bool) -> tuple[str, Top] | None:
        """Return the phase with the most alive at once, and that: of judging, or of training; None without such."""
        names = [name for name in self.tops if name.startswith(EVALUATION) == evaluation]
        name = max(names, key=lambda one: self.tops[one].bytes, default=None)
        return None if name is None else (name, self.tops[name])

    @property
    def peak(self) -> int:
        """The most alive at once in all phases."""
        return max(one.bytes for one in self.tops.values())


def outline(
    settings: Any, config: RunConfig, family: Family, batch: Batch, device: Device, judged: Judged | None = None
) -> Outline:
    """Trace a step as `trace_step` does, a deep model at two depths, and return what it comes to."""
    depths = shallow_depths(settings, config)
    if depths is None:
        return outline_of(trace_step(settings, config, family, batch, device, judged))
    layers = settings.num_hidden_layers
    less, more = (
        outline_of(trace_step(shallow(settings, one), _at_depth(config, one, layers), family, batch, device, judged))
        for one in depths
    )
    return _extrapolated(less, more, depths, layers)


def outline_of(traced: Traced) -> Outline:
    """Return what one trace comes to."""
    trace = traced.trace
    components = {name: components_at(trace, name, top) for name, top in trace.tops.items() if name}
    tops = {name: top for name, top in trace.tops.items() if name}
    return Outline(
        tops, components, replay(trace, EVALUATION), traced.work, traced.trainable, traced.frozen, traced.moved
    )


def shallow_depths(settings: Any, config: RunConfig) -> tuple[int, int] | None:
    """Return the two depths that a model is traced at; None where it is not worth it, or its layers are not alike."""
    layers = getattr(settings, "num_hidden_layers", None)
    if layers is None or settings.is_encoder_decoder or config.adapter.extra:
        return None
    kinds = getattr(settings, "layer_types", None) or ["full"]
    period = next(size for size in range(1, len(kinds) + 1) if _repeats(kinds, size))
    period = math.lcm(
        period, (config.train.extra.get("activation_checkpointing_kwargs") or {}).get("every_n_layers", 1)
    )
    if isinstance(recomputed := config.train.checkpoint_layers, int):  # the same share of both depths
        period = math.lcm(period, layers // math.gcd(layers, min(recomputed, layers)))
    # Both leave the same rest as the whole, so that what a last, incomplete period adds is in both of them.
    first = layers % period
    least = _LEAST + (STASH if config.train.extra.get("activation_offloading") else 0)
    while first < least:
        first += period
    second = first + -(-_MORE // period) * period
    return (first, second) if first + second < layers else None


def shallow(settings: Any, layers: int) -> Any:
    """Return a model's configuration with fewer layers."""
    fewer = copy.deepcopy(settings)
    fewer.num_hidden_layers = layers
    if getattr(settings, "layer_types", None):
        fewer.layer_types = list(settings.layer_types[:layers])
    return fewer


def _at_depth(config: RunConfig, depth: int, layers: int) -> RunConfig:
    """Return a configuration for fewer layers, of which as large a share is recomputed."""
    recomputed = config.train.checkpoint_layers
    if not isinstance(recomputed, int):
        return config
    train = config.train.model_copy(update={"checkpoint_layers": min(recomputed, layers) * depth // layers})
    return config.model_copy(update={"train": train})


def _repeats(kinds: list[str], size: int) -> bool:
    return all(kind == kinds[place % size] for place, kind in enumerate(kinds))


def _extrapolated(less: Outline, more: Outline, depths: tuple[int, int], layers: int) -> Outline:
    steps = (layers - depths[0]) / (depths[1] - depths[0])

    def grown(small: float, large: float) -> int:
        return round(small + steps * (large - small))

    last = re.compile(rf"(?<=\.){depths[1] - 1}\b")
    beyond = re.compile(rf"(?<=\.){depths[1] - 2}\b")
    tops = {
        name: replace(
            more.tops[name],
            bytes=grown(top.bytes, more.tops[name].bytes),
            place=beyond.sub(str(layers - 2), last.sub(str(layers - 1), more.tops[name].place)),
        )
        for name, top in less.tops.items()
    }
    components = {
        name: {key: grown(held.get(key, 0), more.components[name].get(key, 0)) for key in more.components[name]}
        for name, held in less.components.items()
    }
    work = {
        name: Counter({cost: grown(costs[cost], more.work.of[name][cost]) for cost in {*costs, *more.work.of[name]}})
        for name, costs in less.work.of.items()
    }
    return Outline(
        tops,
        components,
        _extrapolated_taken(less, more, tops, steps),
        Work(work),
        grown(less.trainable, more.trainable),
        grown(less.frozen, more.frozen),
        grown(less.moved, more.moved),
    )


def _extrapolated_taken(less: Outline, more: Outline, tops: Mapping[str, Top], steps: float) -> Taken:
    """Extrapolate what rounding and pieces take beyond what is alive.

    Seen over depths, this hardly changes in training; it grows with each layer's cache in judging; and of what is kept
    it grows with the root of what is alive.
    """

    def beyond(one: Outline) -> tuple[int, int, int]:
        training, judging = (_peak(one.tops, evaluation=of) for of in (False, True))
        taken = one.taken
        return taken.training - training, taken.evaluation - judging, taken.reserved - max(training, judging)

    small, large = beyond(less), beyond(more)
    training, judging = (_peak(tops, evaluation=of) for of in (False, True))
    root = math.sqrt(max(training, judging) / more.peak)
    return Taken(
        training + max(small[0], large[0]),
        judging + max(0, round(small[1] + steps * (large[1] - small[1]))) if judging else 0,
        max(training, judging) + round(large[2] * root),
    )


def _peak(tops: Mapping[str, Top], *, evaluation: bool) -> int:
    return max((top.bytes for name, top in tops.items() if name.startswith(EVALUATION) == evaluation), default=0)


def components_at(trace: Trace, phase: str, top: Top) -> Components:
    """Return bytes by component when an operation had run; they add up to what was alive.

    What the forward pass made and what is still there when the backward pass begins is saved for it; what else
    operations made is transient, or the loss head's where that made it.
    """
    backwards = next((start for start, name in trace.marks if name.startswith(BACKWARD) and start > top.at), None)
    found: dict[str, int] = defaultdict(int)
    for one in trace.alive(top.at):
        if one.kind:
            found[_named(one.kind)] += one.size
        elif one.phase.startswith(HEAD):
            found["loss head"] += one.size
        elif one.phase == FORWARD and (phase != FORWARD or _outlives(one.died, backwards)):
            found["saved activations"] += one.size
        else:
            found["transient"] += one.size
    found["loss head" if phase.startswith(HEAD) else "transient"] += top.bytes - sum(found.values())
    return dict(found)


def _outlives(died: int | None, start: int | None) -> bool:
    return died is None or (start is not None and died > start)


def _named(kind: str) -> str:
    if not kind.startswith("base "):
        return kind
    held = kind.removeprefix("base ")
    return f"base weights, {({'uint8': '4-bit', 'int8': '8-bit'}).get(held, held)}"
