"""What a run forecasts of itself: said and kept before its weights are fetched, and held against what it took."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peftkit.resolve import resolve
from peftkit.rundir import RunFolder, read_json, write_json
from peftkit.ui import UI
from peftkit.yaml_file import write_yaml

if TYPE_CHECKING:
    from peftkit.config import RunConfig
    from peftkit.data.prepare import Prepared
    from peftkit.plan.forecast import Subject
    from peftkit.stages import FoundModel


class RunForecast:
    """The forecast of one run. A run that goes on keeps the one that it was started with.

    Args:
        folder: The run's folder, where it is kept.
        ui: Where it is said.
        resumed: Whether the run goes on.
        force: Start even if the forecast says that the run does not fit.
    """

    def __init__(self, folder: RunFolder, ui: UI, *, resumed: bool, force: bool) -> None:
        self._folder = folder
        self._ui = ui
        self._resumed = resumed
        self._force = force
        self._subject: Subject | None = None

    def choose_layers(self, config: RunConfig, base: FoundModel, data: Prepared) -> RunConfig:
        """Have the forecast say how many layers are recomputed, if it is asked; a resumed run keeps what it said."""
        from peftkit.plan.before import choose_layers
        from peftkit.plan.choose import with_layers

        if self._resumed and config.train.checkpoint_layers == "auto":
            said = resolve(str(self._folder.config), own_run=True).config.train.checkpoint_layers
            if isinstance(said, int):
                return with_layers(config, said)
        chosen = choose_layers(config, base, data, self._ui)
        if chosen != config:  # written down before anything is made with it
            write_yaml(self._folder.config, chosen)
        return chosen

    def make(self, config: RunConfig, base: FoundModel, data: Prepared) -> None:
        """Forecast the run and keep that; a run that cannot be modelled starts without.

        Raises:
            DoesNotFitError: It surely does not fit, which is found before its weights are fetched.
        """
        from peftkit.plan.before import forecast_run, require_fit

        if self._resumed and self._folder.forecast.is_file():
            return
        found = forecast_run(config, base, data, self._ui)
        if found is None:
            return
        self._subject, forecast = found
        write_json(self._folder.forecast, forecast.as_json())
        require_fit(self._subject, forecast, self._force)

    def beside_measured(self, seconds_per_step: float) -> dict[str, Any] | None:
        """Return what the summary says of the forecast; None where there was none.

        Args:
            seconds_per_step: What an optimizer step took.
        """
        from peftkit.plan.before import beside_measured

        if not self._folder.forecast.is_file():
            return None
        subject = None if self._resumed else self._subject  # what is measured in parts says nothing of one machine
        return beside_measured(read_json(self._folder.forecast), subject, seconds_per_step)
