"""How a plan is said: a verdict, a table of what takes memory, the time, and what to change."""

from __future__ import annotations

from peftkit.plan.cards import GIB
from peftkit.plan.forecast import Forecast
from peftkit.plan.plan import Plan
from peftkit.plan.time import Range
from peftkit.screen import adapter_text
from peftkit.ui import UI, percent

_ROWS = {
    "training": "alive at once: training",
    "evaluation": "alive at once: judging",
    "for_training": "needed with rounding and pieces: training",
    "for_evaluation": "needed with rounding and pieces: judging",
    "context": "CUDA's own",
}

_SMALLER = "a smaller model"


def show_plan(ui: UI, plan: Plan) -> None:
    """Show all of a plan."""
    config = plan.subject.config
    weights = "unquantized" if config.model.quantization == "none" else config.model.quantization
    adapter, longest = adapter_text(config.adapter), config.train.max_length
    ui.note(f"{config.model.path}, {weights} weights, {adapter}, max_length {longest:,}")
    for one in plan.forecasts:
        ui.say(verdict(one), style="bold green" if one.fits else "bold red")
    show_memory(ui, plan.forecasts)
    show_time(ui, plan)
    first = plan.forecasts[0].memory
    disk = ", ".join(f"{name} {gib(size)}" for name, size in first.disk.items() if size > GIB // 20)
    ui.say(f"main memory {gib(first.host)}; disk: {disk or gib(sum(first.disk.values()))}")
    if plan.largest is not None:
        largest = plan.largest
        found = "no value fits" if largest.value is None else f"the largest that fits is {largest.value}"
        ui.say(f"{largest.key}: {found} ({gib(largest.total)} of {gib(plan.forecasts[0].card.memory)})", style="bold")
    show_advice(ui, plan)


def verdict(one: Forecast) -> str:
    """Say whether a run fits on a card."""
    need = f"{gib(one.memory.total)} of {gib(one.card.memory)}"
    if not one.fits:
        return f"{one.card.name}: does not fit, it needs {need}, {gib(-one.left)} too much"
    return f"{one.card.name}: {'just fits, perhaps' if one.tight else 'fits'}, {need}, {gib(one.left)} left"


def misfit(plan: Plan) -> str | None:
    """Say what does not fit, and what to do about it; None where all fits, or a value that does was found."""
    first = plan.forecasts[0]
    if plan.largest is not None:
        if plan.largest.value is not None:
            return None
        need = f"the smallest needs {gib(plan.largest.total)} of {gib(first.card.memory)}"
        return f"{first.card.name}: no value of {plan.largest.key} fits, {need}; take a larger card or {_SMALLER}"
    short = next((one for one in plan.forecasts if not one.fits), None)
    if short is None:
        return None
    if short is not first:  # advice is for the first card
        return f"{verdict(short)}; `--gpu '{short.card.name}'` alone says what to change"
    if plan.advice and plan.advice[0].fits:
        return f"{verdict(short)}; `--apply FILE.yaml` writes what does"
    return f"{verdict(short)}, and no change to its settings makes it fit; take a larger card or {_SMALLER}"


def show_memory(ui: UI, forecasts: list[Forecast]) -> None:
    """Show what takes memory at the peak of training, by component."""
    names = dict.fromkeys(name for one in forecasts for name in one.memory.components)
    rows = [(name, *(gib(one.memory.components.get(name, 0)) for one in forecasts)) for name in names]
    said = _ROWS | ({} if any(one.card.kind == "cuda" for one in forecasts) else {"context": "libraries"})
    rows += [
        (words, *(gib(getattr(one.memory, name)) for one in forecasts))
        for name, words in said.items()
        if any(getattr(one.memory, name) for one in forecasts)
    ]
    rows.append(("all", *(gib(one.memory.total) for one in forecasts)))
    ui.table(("memory", *(f">{one.card.name}" for one in forecasts)), rows)
    memory = forecasts[0].memory
    place = f" in {memory.place}" if memory.place else ""
    ui.note(f"peak of training: {memory.phase}{place}, at {memory.operation or 'its start'}")


def show_time(ui: UI, plan: Plan) -> None:
    """Show how long a step and the run take on each card."""
    rows = [
        (
            one.card.name,
            f"{one.tokens_per_step:,.0f}",
            seconds(one.step),
            f"{one.tokens_per_step / one.step.middle:,.0f}",
            "?" if one.steps is None else f"{one.steps:,}",
            "?" if one.total is None else seconds(one.total),
        )
        for one in plan.forecasts
    ]
    ui.table(("time", ">tokens in a step", ">a step", ">tokens/s", ">steps", ">training and judging"), rows)
    load = plan.subject.load
    batch = load.batch(plan.subject.config)
    ui.note(f"{batch.rows} rows of up to {batch.length:,} tokens at once; lengths are {load.source}")


def show_advice(ui: UI, plan: Plan) -> None:
    """Show what to change, the best first."""
    if not plan.advice:
        return
    rows = [
        (
            one.words,
            gib(one.total),
            f"{gib(abs(one.memory_gained))} {'less' if one.memory_gained >= 0 else 'more'}",
            f"{percent(abs(one.time_gained))} {'less' if one.time_gained >= 0 else 'more'}",
            "yes" if one.fits else "no",
            one.why,
        )
        for one in plan.advice
    ]
    ui.table(("change", ">takes", ">memory", ">time a token", "fits", "what it does"), rows)


def gib(size: float) -> str:
    """Write bytes in GiB, as cards are sold."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 100 else f"{size / (1 << 20):.1f} MiB"


def seconds(one: Range) -> str:
    """Write a range of seconds."""
    unit, name = (3600.0, "h") if one.middle >= 5400 else (60.0, "min") if one.middle >= 120 else (1.0, "s")
    low, middle, high = (value / unit for value in (one.low, one.middle, one.high))
    return f"{middle:.3g} {name} ({low:.2g} to {high:.2g})"
