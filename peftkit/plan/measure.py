"""Real steps, counted and timed: what the forecast is held against."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from peftkit import machine
from peftkit.adapter.attach import attach
from peftkit.config import RunConfig
from peftkit.plan.build import build_model
from peftkit.plan.ledger import Ledger
from peftkit.plan.step import Batch, Device, adopt_model, examples
from peftkit.plan.tokenizer import blank_tokenizer

if TYPE_CHECKING:
    from peft import PeftModel

    from peftkit.model.family import Family

_SCALE = 0.02  # of random weights, as models start; zeros would make attention and norms degenerate


@dataclass(frozen=True)
class Measured:
    """What real steps took.

    Attributes:
        peak: The most bytes alive at once: on a GPU by torch's own count, on a processor by the ledger's.
        reserved: The most bytes that torch took of a GPU; None on a processor.
        seconds: Of a step, the first left out.
    """

    peak: int
    reserved: int | None
    seconds: float


def measure_run(config: RunConfig, family: Family, batch: Batch, steps: int = 2) -> Measured:
    """Load a run's model from its files, and train it on rows of a known size.

    Args:
        config: The run's configuration; its model must be a local one.
        family: How the model answers.
        batch: The rows of each forward pass.
        steps: Optimizer steps; memory is at its most from the second on.
    """
    from peftkit.model.family import TASK_TYPES
    from peftkit.model.load import find_model, load_model, load_tokenizer

    source = find_model(config.model)
    model = attach(
        load_model(source, config, family),
        config.adapter,
        base=config.model,
        seed=config.train.seed,
        task_type=TASK_TYPES[family],
        steps=config.train.max_steps,
    )
    return _measure(model, config, family, batch, load_tokenizer(source), steps)


def measure_random(
    settings: Any, config: RunConfig, family: Family, batch: Batch, device: Device, steps: int = 3
) -> Measured:
    """Train a model of random weights: what it takes does not depend on values. Arguments as for `trace_step`."""
    model = build_model(settings, config, family, device.dtype)
    materialize(model, device.kind)
    config = config.model_copy(
        update={
            "model": config.model.model_copy(update={"dtype": str(device.dtype).removeprefix("torch.")}),
        }
    )
    return _measure(model, config, family, batch, blank_tokenizer(), steps)


def _measure(model: PeftModel, config: RunConfig, family: Family, batch: Batch, tokenizer: Any, steps: int) -> Measured:
    from peftkit.train.trainers import make_trainer

    config = config.model_copy(update={"train": config.train.model_copy(update={"max_steps": steps})})
    rows = examples(family, config, batch, steps * config.train.gradient_accumulation_steps)
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(model, family, tokenizer, rows, config, Path(folder) / "checkpoints", [clock])
        trainer.args.save_strategy = "no"
        if machine.device() == "cuda":
            torch.cuda.reset_peak_memory_stats()
            trainer.train()
            return Measured(torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), clock.seconds)
        ledger = Ledger("cpu")
        adopt_model(ledger, model)
        with ledger:
            trainer.train()
    return Measured(ledger.trace.peak, None, clock.seconds)


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Times optimizer steps."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Note when a step is done."""
        if machine.device() == "cuda":
            torch.cuda.synchronize()
        self._ends.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Seconds of a step, on average of all but the first."""
        return (self._ends[-1] - self._ends[0]) / max(1, len(self._ends) - 1)


def materialize(model: torch.nn.Module, device: str) -> None:
    """Give a model on the meta device memory on another one, and random values."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, value in held.items():
                if value is not None and value.is_meta:
                    if id(value) not in made:
                        made[id(value)] = _made(value, device)
                    held[name] = made[id(value)]  # type: ignore[assignment]
        _restore_states(module, device)


def _made(value: Any, device: str) -> Any:
    from bitsandbytes.nn import Int8Params, Params4bit

    data = _random(value.data if isinstance(value, torch.nn.Parameter) else value, device)
    if isinstance(value, Params4bit):
        state = value.quant_state
        return Params4bit(data, quant_state=state, quant_type=value.quant_type, bnb_quantized=True, module=value.module)
    if isinstance(value, Int8Params):
        scales = _random(value.SCB, device)
        return Int8Params(data, requires_grad=False, has_fp16_weights=False, CB=data, SCB=scales)
    if isinstance(value, torch.nn.Parameter):
        return torch.nn.Parameter(data, requires_grad=value.requires_grad)
    return data


def _random(value: torch.Tensor, device: str) -> torch.Tensor:
    if value.is_floating_point():
        return torch.empty(value.shape, dtype=value.dtype, device=device).normal_(0, _SCALE)
    if value.dtype in (torch.uint8, torch.int8):
        return torch.randint(0, 120, value.shape, dtype=value.dtype, device=device)
    return torch.zeros(value.shape, dtype=value.dtype, device=device)  # positions: any that exist


def _restore_states(module: torch.nn.Module, device: str) -> None:
    """Give the scales of a 4-bit layer values; its table of values is bitsandbytes' own."""
    from bitsandbytes.functional import get_4bit_type

    state = getattr(getattr(module, "weight", None), "quant_state", None)
    if state is None or not state.code.is_meta:
        return
    state.code = get_4bit_type(state.quant_type, device=device)
    state.absmax = _random(state.absmax, device)
    if state.state2 is not None:
        state.offset = torch.tensor(_SCALE, device=device)
        state.state2.absmax = _random(state.state2.absmax, device)
        state.state2.code = torch.linspace(-1, 1, 256, device=device)
    module.quant_state = state
