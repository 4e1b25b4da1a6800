"""Which weights to merge a QLoRA adapter into: both are written and judged on the run's validation rows.

The weights that training saw give the model that was trained and evaluated; the original ones are closer to what the
base model knows, and can be better or worse.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peftkit.evaluate.metrics import find_metrics
from peftkit.merge.agreement import outputs_of
from peftkit.merge.held_out import HeldOut
from peftkit.merge.inputs import Inputs
from peftkit.merge.models import merged_model
from peftkit.merge.record import Onto
from peftkit.stages import compare_answers, judge_rows
from peftkit.ui import UI

_SIDES: dict[Onto, str] = {"trained": "before", "original": "after"}
"""The names of both in a comparison of two models."""


def choose(inputs: Inputs, folders: dict[Onto, Path], rows: HeldOut, most: int, ui: UI) -> dict[str, Any]:
    """Judge a merge onto the original weights and one onto those that training saw.

    Args:
        inputs: What was merged.
        folders: Where each merge is.
        rows: The run's rows.
        most: Most rows of validation.
        ui: Where progress is shown.

    Returns:
        `chosen`; `why`, a sentence; where there are validation rows also their number as `rows`, the recipe's `metrics`
        as `trained`, `original` and their `difference` (original minus trained) with intervals, and `loss`, in nats per
        trained token.
    """
    examples = rows.first("validation", most)
    if not examples or rows.recipe is None or rows.encoder is None or inputs.passport is None:
        return {"chosen": "trained", "why": "there are no validation rows, and it is the model that was evaluated"}
    config = inputs.passport.config
    answers: dict[Onto, list[Any]] = {}
    losses: dict[Onto, float | None] = {}
    for onto, folder in folders.items():
        model = merged_model(inputs, folder)
        answers[onto] = judge_rows(model, inputs.family, rows.encoder, examples, config, ui, f"onto {onto}")
        outputs = outputs_of(model, inputs.family, examples)
        losses[onto] = outputs.nll / outputs.tokens if outputs.tokens else None
        del model
    compared = compare_answers(config, rows.recipe, examples, answers["trained"], answers["original"])
    metric = find_metrics(rows.recipe.metrics)[0]
    values = {which: compared[side][metric.key]["value"] for which, side in _SIDES.items()}
    original, trained = values["original"], values["trained"]
    gain = 0.0 if original is None or trained is None else original - trained  # what is not defined is not better
    gain = -gain if metric.better == "lower" else gain
    what, percent = metric.name, metric.percent
    if not gain and None not in losses.values():  # the metric is the same; how likely the right answers are may not be
        values, what, percent = losses, "loss", False
        gain = (losses["trained"] or 0.0) - (losses["original"] or 0.0)
    chosen: Onto = "original" if gain > 0 else "trained"
    other: Onto = "trained" if gain > 0 else "original"
    ours, theirs = (_written(values[one], percent) for one in (chosen, other))
    return {
        "chosen": chosen,
        "why": f"{what} {ours} against {theirs} onto {other}, on {len(examples)} validation rows",
        "rows": len(examples),
        "metric": metric.key,
        "trained": compared["before"],
        "original": compared["after"],
        "difference": compared["difference"],
        "names": compared["metrics"],
        "loss": losses,
    }


def _written(value: float | None, percent: bool) -> str:
    return "not defined" if value is None else f"{100 * value:.1f}%" if percent else f"{value:.4g}"
