"""The configuration that a plan would take, and the new file that it is written to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.errors import ConfigError, DoesNotFitError, OutputError
from peftkit.rundir import require_new, write_text

if TYPE_CHECKING:
    from peftkit.config import RunConfig
    from peftkit.plan.plan import Plan


def chosen_config(plan: Plan) -> RunConfig:
    """Return the configuration that the plan would take: with its best advice, or the largest value that fits.

    Raises:
        DoesNotFitError: No value and no change makes it fit.
    """
    from peftkit.plan.changes import changed

    config = plan.subject.config
    if plan.largest is not None:
        if plan.largest.value is None:
            raise DoesNotFitError(f"no value of {plan.largest.key} fits, so there is no configuration to write")
        return changed(config, {plan.largest.key: plan.largest.value})
    if plan.advice and (plan.fits or plan.advice[0].fits):
        return changed(config, plan.advice[0].values)
    if not plan.fits:
        raise DoesNotFitError("no change makes this run fit, so there is no configuration to write")
    return config


def require_file(file: Path) -> None:
    """Refuse a file that the configuration cannot be written to, before anything is traced for it.

    Raises:
        ConfigError: Its name does not end in .yaml.
        OutputError: It exists, or has no folder.
    """
    if file.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--apply '{file}' must end in .yaml, so that `peftkit run` can take it")
    require_new(file)
    if not file.parent.is_dir():
        raise OutputError(f"'{file}' cannot be written: there is no folder '{file.parent}'; make it, or name another")


def write_chosen(plan: Plan, file: Path) -> None:
    """Write the configuration that the plan would take to a new file.

    Raises:
        ConfigError: The file's name does not end in .yaml.
        DoesNotFitError: There is none that fits.
        OutputError: The file exists or cannot be written.
    """
    from peftkit.yaml_file import to_yaml

    require_file(file)
    write_text(file, to_yaml(chosen_config(plan)))
