"""Merge adapters into the weights of their base model: checked first, streamed, resumable, and proved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftkit import machine
from peftkit.merge.inputs import open_inputs
from peftkit.merge.plan import make_plan
from peftkit.merge.record import Onto, key_of, record_of
from peftkit.merge.staging import RECORD, Staging, require_free
from peftkit.merge.write import write_merged
from peftkit.rundir import write_json
from peftkit.ui import UI


def merge(
    adapters: Sequence[tuple[Path, float]],
    out: Path,
    *,
    base: str | None = None,
    onto: Onto | None = None,
    force: bool = False,
    ui: UI | None = None,
) -> dict[str, Any]:
    """Merge adapters into the weights of their base model.

    Args:
        adapters: Each adapter's folder, or the folder of its run, with the weight that its change is multiplied by.
        out: Folder of the merged model; it must not exist.
        base: The base model, as for `model.path`; None takes the one that the adapter names.
        onto: `original` adds to the weights as they are stored, `trained` to those that training saw, quantized and
            dequantized again.
        force: Write over an earlier merge, and note what was wrong instead of refusing it.
        ui: Where progress is shown; silent by default.

    Returns:
        The content of `merge.json`.

    Raises:
        PeftkitError: Whatever the user can mend, as one sentence; nothing is left of the merge then.
    """
    ui = ui or UI(quiet=True)
    require_free(out, force=force)
    machine.quiet_libraries()
    inputs = open_inputs(adapters, base, force=force, progress=ui.note)
    for warning in (*inputs.warnings, *inputs.forced):
        ui.warn(warning)
    chosen = onto or "original"
    plan = make_plan(inputs, onto_trained=chosen == "trained")
    staging = Staging(out, key_of(inputs, chosen))
    with staging.opened(ui.note):
        seen = write_merged(inputs, plan, staging, chosen, ui, force=force)
        record = record_of(inputs, plan, chosen, seen)
        write_json(staging.file(RECORD), record)
        staging.publish(replace=force)
    return record
