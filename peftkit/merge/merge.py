"""Merge adapters into the weights of their base model: checked first, streamed, resumable, and proved."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from peftkit import machine
from peftkit.errors import AdapterError, ConfigError
from peftkit.merge.adapted import NotStreamable
from peftkit.merge.card import write_merge_card
from peftkit.merge.choice import choose
from peftkit.merge.given import Weighted
from peftkit.merge.held_out import HeldOut, find_held_out
from peftkit.merge.inputs import Inputs, open_inputs
from peftkit.merge.plan import Plan, make_plan
from peftkit.merge.proof import prove_files, prove_model
from peftkit.merge.quantized import KINDS, quantize_merged, require_kept
from peftkit.merge.record import Onto, key_of, read_record, record_of
from peftkit.merge.staging import RECORD, Staging, alone_beside, require_free
from peftkit.merge.through_peft import changes_through_peft
from peftkit.merge.write import trained_weights, write_merged
from peftkit.rundir import write_json
from peftkit.ui import UI

ROWS = 100
"""Most rows that a merge is judged on."""


def merge(
    adapters: Sequence[Weighted],
    out: Path,
    *,
    base: str | None = None,
    onto: Onto | None = None,
    quantize: str | None = None,
    force: bool = False,
    proof: bool = True,
    rows: int = ROWS,
    ui: UI | None = None,
) -> dict[str, Any]:
    """Merge adapters into the weights of their base model.

    Args:
        adapters: Each adapter's folder, or the folder of its run, with the weight that its change is multiplied by.
        out: Folder of the merged model; it must not exist.
        base: The base model, as for `model.path`; None takes the one that the adapter names.
        onto: `original` adds to the weights as they are stored, `trained` to those that training saw, quantized and
            dequantized again; None takes what is better on the run's validation rows.
        quantize: `nf4`, `fp4` or `int8`: quantize the merged weights once, as bitsandbytes stores them; needs the
            memory of the quantized model. Weights that training saw quantized would lose the adapter in it.
        force: Write over an earlier merge, and note what was wrong instead of refusing it.
        proof: Whether to load the result and prove that it is what was merged.
        rows: Most rows that it is judged on.
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
    kinds = _kinds(inputs, "original" if quantize and onto is None else onto)
    if quantize:
        _require_quantizable(quantize, kinds[0])
    judged = find_held_out(inputs, ui) if proof or len(kinds) > 1 else None
    with ExitStack() as stack:
        stack.enter_context(alone_beside(out, ui.note))
        require_free(out, force=force)  # nobody made it while this one waited
        made = {}
        for kind in kinds:
            plan = plan_of(inputs, kind, ui)
            staging = Staging(out, key_of(inputs, kind), mark="" if len(kinds) == 1 else kind)
            stack.enter_context(staging.opened())
            ui.stage(f"Merging into the {kind} weights" if trained_weights(inputs) else "Merging")
            made[kind] = plan, staging, write_merged(inputs, plan, staging, kind, ui, force=force)
        chosen, choice = kinds[0], None
        if len(kinds) > 1 and judged is not None:
            ui.stage("Which of both is better")
            choice = choose(inputs, {kind: one[1].path for kind, one in made.items()}, judged, rows, ui)
            chosen = choice["chosen"]
            ui.say(f"onto {chosen}: {choice['why']}")
        plan, staging, seen = made[chosen]
        record = record_of(inputs, plan, chosen, seen, choice)
        if quantize:
            ui.stage(f"Quantizing to {quantize}")
            record["quantized"] = {"kind": quantize, "kept": quantize_merged(inputs, plan, staging.path, quantize)}
            require_kept(record["quantized"]["kept"], quantize)
        if proof and judged is not None:
            record["proof"] = _prove(inputs, None if quantize else plan, staging.path, chosen, judged, rows, ui)
            _require_proved(record["proof"], inputs, force=force)
            record["forced"] = list(inputs.forced)
        write_json(staging.file(RECORD), record)
        write_merge_card(staging.path, inputs, record)
        staging.publish(replace=force)
        for kind, one in made.items():
            if kind != chosen:
                one[1].discard()
    return record


def verify(
    folder: Path,
    adapters: Sequence[Weighted],
    *,
    base: str | None = None,
    onto: Onto | None = None,
    rows: int = ROWS,
    ui: UI | None = None,
) -> dict[str, Any]:
    """Prove that a merged model is what its base and adapters make, whoever merged it.

    Args:
        folder: The merged model.
        adapters: As for `merge`; a weight that `merge.json` names is taken where none is given.
        base: The base model; None takes the one that the adapter names.
        onto: What it was merged onto; None takes what `merge.json` says, else the original weights.
        rows: Most rows that it is judged on.
        ui: Where progress is shown; silent by default.

    Returns:
        The proof: `files`, `model` and `failures`. A folder that peftkit made keeps it in `merge.json` and in its card.

    Raises:
        PeftkitError: The proof cannot be made.
    """
    ui = ui or UI(quiet=True)
    machine.quiet_libraries()
    record = read_record(folder)
    if record is not None:
        known = {one["name"]: one["weight"] for one in record["adapters"]}
        adapters = [Weighted(path, known.get(path.name, 1.0) if weight == 1 else weight) for path, weight in adapters]
        onto = onto or record["onto"]
    inputs = open_inputs(adapters, base, force=False, progress=ui.note)
    for warning in inputs.warnings:
        ui.warn(warning)
    kind = _kinds(inputs, onto or "original")[0]
    plan = None if record and record.get("quantized") else plan_of(inputs, kind, ui)
    proof = _prove(inputs, plan, folder, kind, find_held_out(inputs, ui), rows, ui)
    if record is not None:
        record["proof"] = proof
        write_json(folder / RECORD, record)
        write_merge_card(folder, inputs, record)
    return proof


def _kinds(inputs: Inputs, onto: Onto | None) -> list[Onto]:
    """Return what to merge onto: one, or both where the better one is to be found."""
    trained = trained_weights(inputs)
    if onto == "trained" and trained is None:
        why = "has no passport that says how" if inputs.passport is None else "was trained on unquantized weights"
        raise ConfigError(f"--onto trained: the adapter in '{inputs.adapters[0].folder}' {why}; leave --onto out")
    if trained is None:
        return ["original"]
    others = {one.passport.base.quantization if one.passport else None for one in inputs.adapters}
    if onto != "original" and len(others) > 1:
        raise ConfigError("the adapters were trained on weights that were quantized differently; take --onto original")
    return [onto] if onto else ["trained", "original"]


def plan_of(inputs: Inputs, onto: Onto, ui: UI) -> Plan:
    """Decide what each tensor of a merged model is made of; what cannot be streamed is computed by PEFT, in memory.

    Args:
        inputs: Adapters and base.
        onto: What the adapters are added to.
        ui: Told where PEFT is needed.

    Raises:
        PeftkitError: As `peftkit.merge.plan.make_plan`.
    """
    try:
        return make_plan(inputs, onto_trained=onto == "trained")
    except NotStreamable as error:
        ui.note(f"{error} has to be merged by PEFT, with the whole model in memory")
        own = changes_through_peft(inputs, onto_trained=onto == "trained")
        return make_plan(inputs, onto_trained=onto == "trained", changes=own)


def _prove(
    inputs: Inputs, plan: Plan | None, folder: Path, onto: Onto, judged: HeldOut, rows: int, ui: UI
) -> dict[str, Any]:
    """Prove files and model; without a plan the model alone, whose weights were quantized since."""
    ui.stage("Proof")
    files = None if plan is None else prove_files(inputs, plan, folder, onto, ui)
    failures = list(files["failures"]) if files else []
    model = None
    if not failures:
        model = prove_model(inputs, folder, onto, judged, rows, ui, exact=plan is not None)
        failures += model["failures"]
    return {"files": files, "model": model, "failures": failures}


def _require_quantizable(kind: str, onto: Onto) -> None:
    if kind not in KINDS:
        raise ConfigError(f"--quantize {kind} is not one of {', '.join(KINDS)}")
    if onto == "trained":
        raise ConfigError(
            f"--quantize {kind} after --onto trained would take the adapter away: the dequantized weights lie on the "
            "steps of their quantization, which rounds the change back; take --onto original"
        )


def _require_proved(proof: dict[str, Any], inputs: Inputs, *, force: bool) -> None:
    if not proof["failures"]:
        return
    more = f" (and {len(proof['failures']) - 1} more)" if len(proof["failures"]) > 1 else ""
    wrong = f"the merged model is not what it should be: {proof['failures'][0]}{more}"
    if not force:
        raise AdapterError(f"{wrong}; keep base and adapter apart, or pass --force to keep it all the same")
    inputs.forced.append(wrong)
