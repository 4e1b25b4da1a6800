"""What a merge says at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftkit.screen import change_text, figure_text
from peftkit.ui import UI, percent, size

_REFERENCES = (
    ("to_merged", "base and adapter side by side"),
    ("to_trained", "the model as it was trained"),
    ("to_base", "(base without adapter, beside base and adapter)"),
)


def show_merge(ui: UI, out: Path, record: Mapping[str, Any]) -> None:
    """Say what was written, and what the proof found."""
    if record["proof"]:
        show_proof(ui, record["proof"])
    ui.stage("Result")
    ui.say(
        f"{size(record['bytes'])} of weights: {len(record['changed'])} tensors changed, {record['copied']} copied byte "
        f"for byte{'' if record['quantization'] in (None, 'none') else ', onto the ' + record['onto'] + ' weights'}"
    )
    if record["quantized"]:
        shares = record["quantized"]["kept"].values()
        left = f"; of the change {percent(min(shares))} to {percent(max(shares))} is there" if shares else ""
        ui.say(f"quantized to {record['quantized']['kind']} after that{left}")
    if record["untied"]:
        ui.say(f"{', '.join(record['untied'])} no longer shares its values, as the adapter changes one side of it")
    ui.say(f"{out}", style="bold")


def show_proof(ui: UI, proof: Mapping[str, Any]) -> None:
    """Show what a proof found."""
    files, model = proof["files"], proof["model"]
    if files:
        ui.say(f"{files['copied']} tensors are the base's, by hash; {files['changed']} were recomputed")
    if files and files["realised"]:
        low, high = (percent(files["realised"][name]) for name in ("low", "high"))
        ui.say(f"of the intended change {low} to {high} is there")
    if model:
        ui.say(f"judged on {model['rows']['count']} {model['rows']['what']}:")
        ui.table(
            ("the merged model beside", ">divergence (nats)", ">same likeliest", ">perplexity"),
            [("itself", "", "", _perplexity(model["to_merged"], "merged"))]
            + [(title, *_row(name, model[name])) for name, title in _REFERENCES if name in model],
        )
        if "metrics" in model:
            _show_metrics(ui, model["metrics"])
    for one in proof["failures"]:
        ui.warn(one)
    ui.say("the proof failed" if proof["failures"] else "the proof holds", style="bold")


def _row(name: str, found: Mapping[str, Any]) -> tuple[str, str, str]:
    if found["kl"] is None:
        return f"scores within {found['difference']:.2g}", "", ""
    # The base without adapter takes the place of the merged model, so that one sees how much the adapter changes.
    return f"{found['kl']:.2g}", percent(found["top1"]), _perplexity(found, "merged" if name == "to_base" else "live")


def _perplexity(found: Mapping[str, Any], which: str) -> str:
    value = (found.get("perplexity") or {}).get(which)
    return "" if value is None else f"{value:.4g}"


def _show_metrics(ui: UI, metrics: Mapping[str, Any]) -> None:
    ui.table(
        ("95% intervals", ">base and adapter", ">merged", ">difference"),
        [
            (
                described["name"],
                *(figure_text(metrics[which][key], described) for which in ("live", "merged")),
                change_text(metrics["difference"][key], described),
            )
            for key, described in metrics["names"].items()
        ],
    )
