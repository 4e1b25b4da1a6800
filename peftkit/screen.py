"""What a run says on the screen at its start, between its stages, and at its end."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit import machine
from peftkit.config import RunConfig
from peftkit.evaluate.names import METRICS
from peftkit.recipe import Recipe
from peftkit.resolve import Resolved
from peftkit.rundir import RunFolder
from peftkit.ui import UI, duration, percent, size

if TYPE_CHECKING:
    from peft import PeftModel

GIB = 1 << 30
# Cards report a little less memory than they are sold with.
_NOMINAL = 0.93
FEW_ROWS = 20  # held-out rows below which an interval says little


def show_start(ui: UI, resolved: Resolved, folder: Path) -> None:
    """Say where the run goes, and what differs from the recipe's defaults."""
    config = resolved.config
    ui.say(f"peftkit run {resolved.recipe.name}, preset {config.preset}  ->  {folder}", style="bold")
    if resolved.changed:
        ui.table(
            ("changed key", "recipe", "this run", "from"),
            [(key, was, now, origin) for key, (was, now, origin) in resolved.changed.items()],
        )


def show_data(ui: UI, report: Mapping[str, Any]) -> None:
    """Show the data check."""
    source = report["source"]
    ui.say(f"{source['name']}{' (' + source['licence'] + ')' if source.get('licence') else ''}")
    left_out = f"; {report['left_out']:,} more are left out by the recipe" if report["left_out"] else ""
    ui.say(
        f"{report['read']:,} rows read = {report['kept']:,} kept + {report['truncated']:,} truncated + "
        f"{report['rejected']:,} rejected{left_out}"
    )
    for rejection in report["rejections"][:5]:
        column = f", column '{rejection['column']}'" if rejection["column"] else ""
        ui.say(f"  rejected {rejection['where']}{column}: {rejection['reason']}", style="yellow")
    rows = []
    for name, split in report["splits"].items():
        tokens = split.get("tokens", {})
        labels = "  ".join(f"{label} {count}" for label, count in split.get("labels", {}).items())
        rows.append(
            (
                name,
                split["rows"],
                report["available"].get(name, 0),
                labels,
                *(f"{tokens[key]:.0f}" if tokens else "-" for key in ("median", "p95", "max")),
                percent(split["trained_share"]) if tokens else "-",
            )
        )
    ui.table(("split", ">rows used", ">of", "labels", ">tokens median", ">p95", ">max", ">trained"), rows)
    ends = "the end token is trained" if report["end_token_trained"] else "THE END TOKEN IS NOT TRAINED"
    ui.say(
        f"{ends}; {report['fully_masked']} rows without trained tokens; {report['near_duplicates']:,} near-duplicates, "
        f"none across splits; {report['overlap']} held-out rows among the training rows"
    )
    for caution in _cautions(report):
        ui.warn(caution)
    ui.note("one row as the model sees it (what is trained stands out, in colour or between [[ and ]]):")
    ui.example(report["example"]["tokens"])


def _cautions(report: Mapping[str, Any]) -> list[str]:
    """Say what makes a comparison weak before anything is trained."""
    held_out = report["available"].get("test", 0)
    cautions = []
    if not held_out:
        cautions.append("there are no held-out rows, so nothing will be compared; give more rows or data.test_path")
    elif held_out < FEW_ROWS:
        cautions.append(f"only {held_out} held-out rows: intervals will be wide; give more rows or data.test_path")
    labels = report["splits"]["train"].get("labels", {})
    cautions += [f"no training row has the label '{label}'" for label, count in labels.items() if not count]
    return cautions


def show_model(ui: UI, config: RunConfig, model: PeftModel, parameters: tuple[int, int]) -> None:
    """Say what was loaded and attached."""
    trainable, total = parameters
    kinds = {"rank-stabilised": config.adapter.use_rslora, "weight-decomposed": config.adapter.use_dora}
    extras = "".join(f", {name}" for name, used in kinds.items() if used)
    computing = str(model.dtype).removeprefix("torch.")
    ui.say(
        f"{config.model.path}: {total - trainable:,} parameters, {config.model.quantization} weights in "
        f"{size(model.get_base_model().get_memory_footprint() - 4 * trainable)}, computing in {computing}"
    )
    ui.say(
        f"LoRA r={config.adapter.r}, alpha={config.adapter.lora_alpha:g}{extras}: {trainable:,} trainable parameters "
        f"of {total:,} ({percent(trainable / total)}), {size(4 * trainable)} in float32"
    )


def step_detail(line: Mapping[str, Any]) -> str:
    """Write one step's figures for the progress bar."""
    return (
        f"loss {line['loss']:.3f}  lr {line['learning_rate']:.1e}  {line['tokens_per_second']:.0f} tok/s  "
        f"{size(line['memory'])}"
    )


def show_metrics(ui: UI, summary: Mapping[str, Any]) -> None:
    """Show each metric before and after, and the paired difference."""

    def cell(metric: Mapping[str, Any]) -> str:
        return f"{percent(metric['value'])} ({percent(metric['low'])} to {percent(metric['high'])})"

    def points(metric: Mapping[str, Any]) -> str:
        low, high = 100 * metric["low"], 100 * metric["high"]
        return f"{100 * metric['value']:+.1f} points ({low:+.1f} to {high:+.1f})"

    rows = [
        (
            METRICS[name][0] if name in METRICS else name,
            cell(summary["before"][name]),
            cell(summary["after"][name]),
            points(summary["difference"][name]),
        )
        for name in summary["after"]
    ]
    ui.table(("95% intervals", ">before", ">after", ">difference"), rows)


def show_end(ui: UI, resolved: Resolved, folder: RunFolder, summary: Mapping[str, Any]) -> None:
    """Say, on one screen, what improved, what it cost, and what to do next."""
    ui.stage("Result")
    show_result(ui, summary)
    ui.stage("Next")
    ui.say(f"  look:     {folder.report}")
    ui.say(f'  use it:   peftkit predict {shlex.quote(str(folder.adapter))} "your text"')
    if summary["after"]:
        ui.say(f"  judge it: peftkit eval {shlex.quote(str(folder.path))}")
    ui.say(f"  larger:   {preset_advice(resolved.recipe, resolved.config.preset)}")
    ui.say(f"{folder.path}", style="bold")


def show_result(ui: UI, summary: Mapping[str, Any]) -> None:
    """Say what improved, and what it cost."""
    if summary["after"]:
        show_metrics(ui, summary)
        changed = summary["mcnemar"]
        rows = next(iter(summary["after"].values()))["n"]
        ui.say(
            f"of {rows} held-out rows {changed['fixed']} were fixed and {changed['broken']} broken "
            f"(McNemar p = {changed['p_value']:.2g})"
        )
    memory = summary["memory"]
    cuda = f", {size(memory['peak_cuda_allocated'])} on the GPU" if memory["peak_cuda_allocated"] else ""
    ui.say(
        f"{duration(summary['time']['total'])} in all, {duration(summary['train']['seconds'])} of it training at "
        f"{summary['tokens_per_second']:.0f} tokens/s; peak memory {size(memory['peak_rss'])}{cuda}; "
        f"adapter {size(summary['adapter']['bytes'])}"
    )


def preset_advice(recipe: Recipe, current: str) -> str:
    """Say which preset this machine could take."""
    name, memory = machine.accelerator()
    fitting = [preset for preset, one in recipe.presets.items() if one.memory and one.memory * _NOMINAL * GIB <= memory]
    if name is None:
        return f"no CUDA GPU here, so preset {current} is the one for this machine; a GPU of 12 GB takes --preset 12gb"
    if not fitting:
        return f"{name} has {size(memory)}, so preset tiny is the one for this machine"
    best = max(fitting, key=lambda preset: recipe.presets[preset].memory)
    return f"{name} has {size(memory)}: peftkit run {recipe.name} --preset {best}"
