"""This machine as a card: its memory, and rates that the doctor measured and kept, or that are measured on the spot."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from peftkit import machine
from peftkit.errors import ConfigError, OutputError
from peftkit.model.assets import cache_folder
from peftkit.plan.cards import MIB, Card, find_card
from peftkit.plan.probe import Rates, measure
from peftkit.rundir import read_json, write_json

_LATER = 130 * MIB
"""Main memory of libraries that a run loads after its forecast: schedules, charts, the report. Seen in small runs."""

_PRODUCT, _COPY = 0.85, 0.9
"""Shares of a GPU's nominal rates that large products and copies alone reach: cards are stated with nominal rates."""


def this_machine() -> Card:
    """Return this machine's GPU with the memory that is free, or its processor with the main memory that is left."""
    name, memory = machine.accelerator()
    rates = kept_rates()
    if name is None:
        rates = rates or measure(shapes=1)
        here = machine.resident()
        return Card(
            name="this processor",
            memory=machine.available_memory() + here,
            tflops=rates.half / 1e12,
            float32=rates.single / 1e12,
            bandwidth=rates.copy,
            bfloat16=False,
            context=here + _LATER,
            workspace=0,
            kind="cpu",
            here=True,
        )
    card: Card | None = None
    with suppress(ConfigError):
        card = find_card(name)
    if card is None or rates is not None:
        card = _measured_card(name, rates or measure(shapes=1), card)
    return replace(card, name=name, memory=min(memory, machine.free_cuda() + card.context), here=True)


def _measured_card(name: str, rates: Rates, known: Card | None) -> Card:
    """Return a GPU with the rates that it was measured to have, and what else is known of it."""
    like = known or Card(name, 0, 0.0, 0.0, 0.0, bfloat16=machine.fast_dtype() == "bfloat16")
    return replace(
        like,
        tflops=rates.half / 1e12 / _PRODUCT,
        float32=rates.single / 1e12 / _PRODUCT,
        bandwidth=rates.copy / _COPY,
        context=rates.context or like.context,
    )


def kept_rates() -> Rates | None:
    """Return what the doctor measured on this machine; None where it has not."""
    held = _kept().get(machine.key())
    with suppress(TypeError):  # written by another version
        return Rates(**held) if isinstance(held, dict) else None
    return None


def measure_and_keep() -> Rates:
    """Measure this machine, and keep that for the forecasts of later runs."""
    rates = measure()
    with suppress(OSError):  # a cache that cannot be written costs only that
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_json(_file(), {**_kept(), machine.key(): asdict(rates)})
    return rates


def _kept() -> dict[str, Any]:
    with suppress(OutputError, OSError):
        held = read_json(_file())
        return held if isinstance(held, dict) else {}
    return {}


def _file() -> Path:
    return cache_folder() / "plan" / "rates.json"
