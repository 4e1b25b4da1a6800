"""Proof of a merge, from what stands on the disk.

Of the files: every tensor is there and no other; what the adapter does not change is the base's, by hash; what it does
change is recomputed, and the share of the intended change that is there is measured. Of the model: its distributions
against those of base and adapter side by side, and the task's own metric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftkit.merge.agreement import agreement, outputs_of
from peftkit.merge.changes import Scratch
from peftkit.merge.held_out import HeldOut
from peftkit.merge.inputs import Inputs
from peftkit.merge.models import live_model, merged_model
from peftkit.merge.plan import Output, Plan
from peftkit.merge.record import Onto
from peftkit.merge.rows import Realised, Trained, merged_rows
from peftkit.merge.write import LOST, trained_weights
from peftkit.model.fingerprint import tensor_digests
from peftkit.model.weight_files import StoredTensor, weight_files
from peftkit.stages import compare_answers, judge_rows
from peftkit.ui import UI

MOST_KL = 0.005
"""Mean divergence, in nats, above which the merged model is not the one that was merged."""
MOST_DIFFERENCE = 0.05
"""The same for scores, in standard deviations of the training scores."""
_FAR = 1e9
"""Steps of precision that a value is off which is not finite."""
OVERDONE = 1.5
"""Above this share of the intended change in any tensor, more was added than the adapter says."""


def prove_files(inputs: Inputs, plan: Plan, folder: Path, onto: Onto, ui: UI) -> dict[str, Any]:
    """Compare the files of a merged model with what they should be.

    Returns:
        `tensors`, `copied`, `changed` (numbers); `realised`: the smallest and largest share of the intended change;
        `off`: the largest distance of a value from what it should be, in steps of its dtype's precision; `failures`:
        what is wrong, a sentence each.
    """
    failures: list[str] = []
    stored = {tensor.name: tensor for file in weight_files(folder) for tensor in file.tensors}
    planned = {one.name: one for file in plan.files for one in file.outputs}
    for name in sorted(planned.keys() - stored.keys()):
        failures.append(f"'{name}' is not there")
    for name in sorted(stored.keys() - planned.keys()):
        failures.append(f"'{name}' should not be there")
    both = {name: (planned[name], stored[name]) for name in planned.keys() & stored.keys()}
    for name, (one, found) in sorted(both.items()):
        if (one.dtype, one.shape) != (found.dtype, found.shape):
            failures.append(
                f"'{name}' is {found.dtype} {list(found.shape)} and should be {one.dtype} {list(one.shape)}"
            )
    both = {
        name: pair for name, pair in both.items() if (pair[0].dtype, pair[0].shape) == (pair[1].dtype, pair[1].shape)
    }
    failures += _compare_copies(both)
    trained = trained_weights(inputs) if onto == "trained" else None
    shares: list[float] = []
    off = 0.0
    changed = {name: pair for name, pair in both.items() if not pair[0].copied}
    with ui.progress("tensors checked", len(changed)) as bar:
        for number, (name, (one, found)) in enumerate(sorted(changed.items()), 1):
            share, distance = _compare_changed(one, found, trained)
            bar.to(number)
            off = max(off, distance)
            if share is not None and math.isfinite(share):
                shares.append(share)
            if share is not None and not LOST <= share <= OVERDONE:
                failures.append(f"'{name}' has {share:.3g} times the change that the adapter makes")
            elif distance > 1:
                failures.append(f"'{name}' has values that are {distance:.3g} steps of its precision off")
    return {
        "tensors": len(stored),
        "copied": sum(pair[0].copied for pair in both.values()),
        "changed": len(changed),
        "realised": {"low": min(shares), "high": max(shares)} if shares else None,
        "off": off,
        "failures": failures,
    }


def _compare_copies(both: Mapping[str, tuple[Output, StoredTensor]]) -> list[str]:
    """Compare the hashes of what should have been copied."""
    digests: dict[Path, dict[str, str]] = {}

    def digest(tensor: StoredTensor) -> str:
        if tensor.file not in digests:
            digests[tensor.file] = tensor_digests(tensor.file)
        return digests[tensor.file][tensor.name]

    return [
        f"'{name}' is not the base's, and the adapter does not change it"
        for name, (one, found) in sorted(both.items())
        if one.copied and one.source is not None and digest(found) != digest(one.source)
    ]


def _compare_changed(one: Output, found: StoredTensor, trained: Trained | None) -> tuple[float | None, float]:
    """Return the share of the intended change that a tensor has, and how many steps of precision it is off at most."""
    import torch

    total, scratch = Realised(), Scratch()
    off = 0.0
    step = torch.finfo(found.torch_dtype).eps
    first = 0
    with found.file.open("rb") as stream:
        for before, wanted in merged_rows(one, trained):
            there = found.read_rows(stream, first, len(wanted)).to(wanted.dtype)
            first += len(wanted)
            # Products of another processor differ in their last bits, relative to the largest of their kind.
            room = wanted.abs() * step + wanted.abs().max() * 1e-6 + torch.finfo(found.torch_dtype).tiny
            off = max(off, float(((there - wanted).abs() / room).nan_to_num(nan=_FAR, posinf=_FAR).max()))
            total.add(before, wanted, there, scratch)
    return total.share, off


def prove_model(
    inputs: Inputs, folder: Path, onto: Onto, rows: HeldOut, most: int, ui: UI, *, exact: bool = True
) -> dict[str, Any]:
    """Compare a merged model with base and adapter side by side.

    Args:
        inputs: What was merged.
        folder: The merged model.
        onto: What it was merged onto.
        rows: What to judge it on.
        most: Most rows.
        ui: Where progress is shown.
        exact: Whether it must be the same model; one that was quantized must only be nearer to it than the base is.

    Returns:
        `rows`: what they are and how many; `to_merged`: agreement with base and adapter as the merge took them;
        `to_trained`: with them as they were trained, where the base was quantized then; `to_base`: of the base without
        the adapter with them, which says how much there is to lose; `metrics`: the task's, live and merged;
        `failures`.
    """
    examples = rows.first("test", most) or rows.first("validation", most)
    problem = getattr(inputs.settings, "problem_type", None) if inputs.family == "head" else None
    merged = merged_model(inputs, folder)
    ours = outputs_of(merged, inputs.family, examples, problem=problem)
    answers = _answers(merged, inputs, rows, examples, ui, "merged model") if rows.recipe else None
    del merged
    result: dict[str, Any] = {"rows": {"what": rows.what, "count": len(examples)}}
    quantized = trained_weights(inputs) is not None
    live = live_model(inputs, trained=onto == "trained")
    theirs = outputs_of(live, inputs.family, examples, problem=problem)
    result["to_merged"] = agreement(theirs, ours)
    if quantized and onto == "original":
        del live
        live = live_model(inputs, trained=True)
        theirs = outputs_of(live, inputs.family, examples, problem=problem)
    if quantized:
        result["to_trained"] = agreement(theirs, ours)
    with live.disable_adapter():
        result["to_base"] = agreement(theirs, outputs_of(live, inputs.family, examples, problem=problem))
    if answers is not None and rows.recipe is not None and inputs.passport is not None:
        before = _answers(live, inputs, rows, examples, ui, "base and adapter")
        compared = compare_answers(inputs.passport.config, rows.recipe, examples, before, answers)
        names = {"live": "before", "merged": "after", "difference": "difference", "names": "metrics"}
        result["metrics"] = {name: compared[key] for name, key in names.items()}
    result["failures"] = _failures(result["to_merged"], MOST_KL if exact else result["to_base"]["kl"])
    return result


def _answers(model: Any, inputs: Inputs, rows: HeldOut, examples: Sequence[Any], ui: UI, what: str) -> list[Any]:
    assert rows.encoder is not None
    assert inputs.passport is not None
    return judge_rows(model, inputs.family, rows.encoder, examples, inputs.passport.config, ui, what)


def _failures(found: Mapping[str, Any], most: float | None) -> list[str]:
    if found["kl"] is None:
        if found["difference"] <= MOST_DIFFERENCE:
            return []
        return [f"its scores differ from those of base and adapter by up to {found['difference']:.3g}"]
    if most is None or found["kl"] <= most:
        return []
    return [
        f"its answers diverge from those of base and adapter by {found['kl']:.3g} nats, more than {most:.3g} "
        f"(the likeliest is the same in {found['top1']:.1%})"
    ]
