"""What to change in a run that ran out of memory: the changes of `peftkit plan`, each with what it saves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pydantic import ValidationError

from peftkit.errors import DoesNotFitError, MemoryGoneError, PeftkitError
from peftkit.memory.retries import Retries
from peftkit.ui import size

if TYPE_CHECKING:
    from peftkit.config import RunConfig
    from peftkit.data.prepare import Prepared
    from peftkit.plan.advice import Advice
    from peftkit.stages import FoundModel

MOST = 3
"""Changes that are named."""


@contextmanager
def advised(config: RunConfig, base: FoundModel, data: Prepared, retries: Retries) -> Iterator[None]:
    """Say what would help where memory is gone for good.

    Args:
        config: The run's configuration.
        base: Its base model.
        data: Its rows.
        retries: What was tried.

    Raises:
        DoesNotFitError: Memory was gone.
    """
    try:
        yield
    except MemoryGoneError as error:
        named = [
            f"{one.words} (saves {size(one.memory_gained)})" for one in changes(retries.applied(config), base, data)
        ]
        change = f"start a new run with {', or '.join(named)}" if named else "take a smaller model or a larger machine"
        raise DoesNotFitError(f"{error}; {change}") from error


def changes(config: RunConfig, base: FoundModel, data: Prepared) -> list[Advice]:
    """Return the changes that save memory, those first that cost least time; none where the run is not modelled."""
    from peftkit.plan.advice import Adviser
    from peftkit.plan.before import subject_of_run
    from peftkit.plan.changes import smaller
    from peftkit.plan.plan import forecasts_of
    from peftkit.plan.rates import this_machine

    found = []
    with suppress(PeftkitError):
        subject = subject_of_run(config, base, data)
        adviser = Adviser(subject, forecasts_of(subject, [this_machine()])[0])
        for change in smaller(subject):
            with suppress(PeftkitError, ValidationError):  # a change that does not suit this run is no advice
                found.append(adviser.try_change([change]))
    saving = [one for one in found if one.memory_gained > 0]
    return sorted(saving, key=lambda one: (-one.time_gained, one.total))[:MOST]
