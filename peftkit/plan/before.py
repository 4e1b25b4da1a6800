"""The forecast that every run starts with: written into its folder, and a refusal where the run cannot fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from peftkit.errors import DoesNotFitError, NotModelledError, PeftkitError
from peftkit.model.load import settings_of
from peftkit.plan.advice import Adviser
from peftkit.plan.calibration import note
from peftkit.plan.choose import with_layers, with_layers_chosen
from peftkit.plan.forecast import Forecast, Subject
from peftkit.plan.plan import forecasts_of
from peftkit.plan.rates import this_machine
from peftkit.plan.screen import seconds, verdict
from peftkit.plan.workload import workload_of
from peftkit.ui import UI

if TYPE_CHECKING:
    from peftkit.config import RunConfig
    from peftkit.data.prepare import Prepared
    from peftkit.stages import FoundModel

SURE = 1.05
"""How many times what a machine has a run must need to be refused: the forecast is good to a few percent."""


def forecast_run(config: RunConfig, base: FoundModel, data: Prepared, ui: UI) -> tuple[Subject, Forecast] | None:
    """Forecast a run on this machine, from its rows and its model's configuration, and say it.

    Returns:
        What the forecast is about, and the forecast; None where a part cannot be modelled, which is said.
    """
    subject = subject_of_run(config, base, data)
    try:
        (found,) = forecasts_of(subject, [this_machine()])
    except PeftkitError as error:  # a run that cannot be at all says so itself, at the place where it fails
        ui.note(f"no forecast: {error}")
        return None
    ui.say(f"forecast for {verdict(found)}; a step takes about {seconds(found.step)}")
    return subject, found


def choose_layers(config: RunConfig, base: FoundModel, data: Prepared, ui: UI) -> RunConfig:
    """Return the configuration with a number for `train.checkpoint_layers=auto`, by the forecast for this machine.

    Where that cannot be modelled, all layers are recomputed.
    """
    if config.train.checkpoint_layers != "auto":
        return config
    subject = subject_of_run(config, base, data)
    layers = int(subject.settings.get_text_config().num_hidden_layers)
    try:
        config = with_layers_chosen(subject, this_machine()).config
    except NotModelledError as error:
        ui.note(f"no forecast, so all layers are recomputed: {error}")
        return with_layers(config, layers)
    ui.say(f"recomputes {config.train.checkpoint_layers} of {layers} layers, by the forecast")
    return config


def subject_of_run(config: RunConfig, base: FoundModel, data: Prepared) -> Subject:
    """Return what is forecast of a run whose rows are there."""
    return Subject(settings_of(base.source), config, base.family, workload_of(data.train, data.test, config))


def require_fit(subject: Subject, found: Forecast, force: bool) -> None:
    """Refuse a run that surely does not fit, with what to change.

    Raises:
        DoesNotFitError: It needs more than the machine has, and `force` is not set.
    """
    if force or found.memory.total <= SURE * found.card.memory:
        return
    advice = [one for one in Adviser(subject, found).advise() if one.fits]
    change = f"take {advice[0].words}" if advice else "take a smaller model or a larger card"
    raise DoesNotFitError(f"{verdict(found)}; {change}, or start it anyway with --force")


def beside_measured(forecast: Mapping[str, Any], subject: Subject | None, measured: float) -> dict[str, Any]:
    """Return what `summary.json` says of the forecast; keep what a step took for later ones.

    Args:
        forecast: Content of `forecast.json`.
        subject: What it is about; None where it was made for an earlier start of the run, perhaps on another machine.
        measured: Seconds of an optimizer step.
    """
    step, total = forecast["time"]["seconds_per_step"], forecast["time"]["total"]
    if subject is not None:
        note(subject.kind, forecast["time"]["uncalibrated_seconds_per_step"], measured)
    return {
        "memory": forecast["memory"]["total"],
        "allocated": forecast["memory"]["allocated"],
        "seconds_per_step": step["middle"],
        "seconds_per_step_range": [step["low"], step["high"]],
        "measured_seconds_per_step": float(f"{measured:.4g}"),
        "total_seconds": None if total is None else total["middle"],
    }
