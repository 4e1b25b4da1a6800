"""A run's forecast: traced once for each kind of device, then read for one card or several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftkit import machine
from peftkit.config import RunConfig
from peftkit.errors import ConfigError, NotModelledError, PeftkitError, first_line
from peftkit.model.quantize import stored_kind
from peftkit.plan.calibration import Calibration
from peftkit.plan.cards import Card
from peftkit.plan.memory import Memory, as_json, memory_of
from peftkit.plan.outline import Outline, outline
from peftkit.plan.parts import EVALUATION
from peftkit.plan.step import Device
from peftkit.plan.time import Range, judging_time, step_time
from peftkit.plan.workload import Workload

if TYPE_CHECKING:
    import torch

    from peftkit.model.family import Family

TIGHT = 0.05
"""Share of a card's memory below which what is left says only that it should just fit."""


@dataclass(frozen=True)
class Subject:
    """What a forecast is about.

    Attributes:
        settings: The base model's configuration.
        config: The run's configuration, with its labels.
        family: How the model answers.
        load: The rows.
    """

    settings: Any
    config: RunConfig
    family: Family
    load: Workload

    @property
    def kind(self) -> str:
        """What runs have in common whose forecasts of time are off by about the same."""
        model = self.config.model
        return f"{self.settings.model_type} {self.family} {model.quantization} {model.dtype}"


@dataclass(frozen=True)
class Forecast:
    """What a run takes on one card.

    Attributes:
        card: The card.
        memory: Its bytes.
        step: Seconds of an optimizer step.
        uncalibrated: Likely seconds of an optimizer step by the card's rates alone.
        steps: Optimizer steps; None where that is not known.
        total: Seconds of training and judging; None where the steps are not known.
        tokens_per_step: Tokens of an optimizer step, without padding.
        trainable: Number of trained parameters.
        frozen: Number of the base model's parameters.
        flops: Floating-point operations of an optimizer step.
    """

    card: Card
    memory: Memory
    step: Range
    uncalibrated: float
    steps: int | None
    total: Range | None
    tokens_per_step: float
    trainable: int
    frozen: int
    flops: int

    @property
    def left(self) -> int:
        """Bytes of the card that are left; below zero where it does not fit."""
        return self.card.memory - self.memory.total

    @property
    def seconds_per_token(self) -> float:
        """Likely seconds of a step over its tokens."""
        return self.step.middle / self.tokens_per_step

    @property
    def fits(self) -> bool:
        """Whether it fits."""
        return self.left >= 0

    @property
    def tight(self) -> bool:
        """Whether it fits with so little left that it is not sure."""
        return self.fits and self.left < TIGHT * self.card.memory

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values: bytes and seconds."""
        return {
            "card": self.card.name,
            "card_memory": self.card.memory,
            "fits": self.fits,
            "tight": self.tight,
            "left": self.left,
            "memory": as_json(self.memory),
            "time": {
                "steps": self.steps,
                "tokens_per_step": round(self.tokens_per_step, 1),
                "tokens_per_second": round(self.tokens_per_step / self.step.middle, 1),
                "flops_per_step": self.flops,
                "seconds_per_step": _range(self.step),
                "uncalibrated_seconds_per_step": float(f"{self.uncalibrated:.4g}"),
                "total": None if self.total is None else _range(self.total),
            },
            "parameters": {"trained": self.trainable, "frozen": self.frozen},
        }


def forecast(subject: Subject, card: Card, calibration: Calibration | None = None) -> Forecast:
    """Return what a run takes on a card.

    Raises:
        ConfigError: The run cannot be as it is configured.
        NotModelledError: A part of it cannot be modelled.
    """
    return read(subject, trace(subject, card), card, calibration)


def trace(subject: Subject, card: Card, *, judging: bool = True) -> Outline:
    """Trace a run as it would be on a card, with judging held-out rows or without.

    Raises:
        ConfigError: The run cannot be as it is configured.
        NotModelledError: A part of it cannot be modelled.
    """
    require_modelled(subject)
    load, config = subject.load, subject.config
    try:
        judged = load.judged(config) if judging else None
        return outline(subject.settings, config, subject.family, load.batch(config), device_of(config, card), judged)
    except PeftkitError:
        raise
    except Exception as error:  # a library met what has no meaning without values; its own words say what
        raise NotModelledError(
            f"the plan cannot model {_named(subject)}: {type(error).__name__}, {first_line(error)}; "
            "a run starts without a forecast"
        ) from error


def require_modelled(subject: Subject) -> None:
    """Refuse what is known to have no model here.

    Raises:
        NotModelledError: It is.
    """
    held = stored_kind(subject.settings)
    if held not in (None, "nf4", "fp4", "int8"):
        raise NotModelledError(
            f"the plan cannot model the weights of '{subject.config.model.path}', which are stored as {held}; "
            "plan for the model that they were made from, with model.quantization=nf4 or int8"
        )


def read(subject: Subject, traced: Outline, card: Card, calibration: Calibration | None = None) -> Forecast:
    """Read a trace for one card."""
    config, load = subject.config, subject.load
    asked = config.train.gradient_accumulation_steps
    passes = min(asked, 2)
    itemsize = device_of(config, card).dtype.itemsize
    worst = step_time(traced.work, card, itemsize, passes, asked)
    # Rows of like length stand together, so a step has hardly more than its rows' tokens.
    batch = load.batch(config)
    share = min(1.0, load.tokens_per_step(config) / (batch.rows * batch.length * asked))
    step = worst.times(share)
    uncalibrated = step.middle
    if calibration is not None:
        step = calibration.applied(step)
    steps = load.steps(config)
    total = None
    if steps is not None:
        judged = load.judged(config)
        batches = -(-(load.held_out if load.held_out is not None else config.evaluate.max_rows) // max(1, judged.rows))
        written = 1 if config.task.kind in ("chat", "completion") else judged.written
        judging = judging_time(traced.work, card, itemsize, written).times(2 * batches if judged.rows else 0)
        total = Range(*(a * steps + b for a, b in zip(_each(step), _each(judging), strict=True)))
    return Forecast(
        card=card,
        memory=memory_of(traced, config, card),
        step=step,
        uncalibrated=uncalibrated,
        steps=steps,
        total=total,
        tokens_per_step=load.tokens_per_step(config),
        trainable=traced.trainable,
        frozen=traced.frozen,
        flops=round(_flops(traced) * asked / passes),
    )


def device_of(config: RunConfig, card: Card) -> Device:
    """Return where a run on a card computes, and in which dtype."""
    import torch

    dtype: torch.dtype
    if config.model.dtype != "auto":
        dtype = getattr(torch, config.model.dtype)
    elif card.kind == "cpu":
        dtype = getattr(torch, machine.fast_dtype())
    else:
        dtype = torch.bfloat16 if card.bfloat16 else torch.float16
    if card.kind == "cpu" and dtype == torch.float16:
        raise ConfigError("model.dtype=float16 is for GPUs; take float32 or bfloat16 on a processor")
    return Device(card.kind, dtype)


def _flops(traced: Outline) -> int:
    return traced.work.flops(*(name for name in traced.work.of if not name.startswith(EVALUATION)))


def _named(subject: Subject) -> str:
    method = subject.config.adapter.method
    return f"a {subject.settings.model_type} model with adapter.method={method}"


def _each(one: Range) -> tuple[float, float, float]:
    return one.low, one.middle, one.high


def _range(one: Range) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in zip(("low", "middle", "high"), _each(one), strict=True)}
