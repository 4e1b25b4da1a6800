"""What a run says on the screen at its start, between its stages, and at its end."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit import machine
from peftkit.adapter.methods import find_method
from peftkit.config import AdapterConfig, RunConfig
from peftkit.recipe import Recipe
from peftkit.resolve import Resolved
from peftkit.rundir import RunFolder
from peftkit.ui import UI, duration, percent, size

if TYPE_CHECKING:
    from peft import PeftModel

GIB = 1 << 30
# Cards report a little less memory than they are sold with.
_NOMINAL = 0.93
MOST_LABELS = 8
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
    held = "" if report["format"] == "columns" else f", read as {report['format']}"
    ui.say(f"{source['name']}{' (' + source['licence'] + ')' if source.get('licence') else ''}{held}")
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
        labels = _labels(split)
        rows.append(
            (
                name,
                split["rows"],
                report["available"].get(name, 0),
                labels,
                *(f"{tokens[key]:.0f}" if tokens else "-" for key in ("median", "p95", "max")),
                percent(split["trained_share"]) if split.get("trained_share") else "-",  # a head trains no token
            )
        )
    ui.table(("split", ">rows used", ">of", "labels", ">tokens median", ">p95", ">max", ">trained"), rows)
    said = {True: "the end token is trained; ", False: "THE END TOKEN IS NOT TRAINED; ", None: ""}
    ui.say(
        f"{said[report['end_token_trained']]}{report['fully_masked']} rows without trained tokens; "
        f"{report['near_duplicates']:,} near-duplicates, none across splits; "
        f"{report['overlap']} held-out rows among the training rows"
    )
    for caution in _cautions(report):
        ui.warn(caution)
    judged = report["splits"].get("test", {}).get("rows", 0)
    if 0 < judged < FEW_ROWS <= report["available"]["test"]:  # as was asked for, so it is no warning
        ui.note(f"only {judged} held-out rows will be judged: intervals will be wide; evaluate.max_rows says how many")
    ui.note("one row as the model sees it (what is trained stands out, in colour or between [[ and ]]):")
    ui.example(report["example"]["tokens"])


def _labels(split: Mapping[str, Any]) -> str:
    """Write a split's labels with their counts, or the mean and range of its scores."""
    if scores := split.get("scores"):
        return f"scores {scores['low']:.3g} to {scores['high']:.3g}, mean {scores['mean']:.3g}"
    counts = sorted(split.get("labels", {}).items(), key=lambda item: -item[1])
    more = f"  and {len(counts) - MOST_LABELS} more" if len(counts) > MOST_LABELS else ""
    return "  ".join(f"{label} {count}" for label, count in counts[:MOST_LABELS]) + more


def _cautions(report: Mapping[str, Any]) -> list[str]:
    """Say what makes a comparison weak, and what may be wrong with the rows, before anything is trained."""
    from peftkit.data.quality import quality_cautions

    held_out = report["available"].get("test", 0)
    cautions = []
    if not held_out:
        cautions.append("there are no held-out rows, so nothing will be compared; give more rows or data.test_path")
    elif held_out < FEW_ROWS:
        cautions.append(f"only {held_out} held-out rows: intervals will be wide; give more rows or data.test_path")
    labels = report["splits"]["train"].get("labels", {})
    cautions += [f"no training row has the label '{label}'" for label, count in labels.items() if not count]
    return [*cautions, *quality_cautions(report["quality"])]


def show_model(ui: UI, config: RunConfig, held: str, model: PeftModel, parameters: tuple[int, int]) -> None:
    """Say what was loaded and attached."""
    trainable, total = parameters
    computing = str(model.dtype).removeprefix("torch.")
    weights = "unquantized" if held == "none" else held
    in_memory = size(model.get_base_model().get_memory_footprint() - 4 * trainable)
    ui.say(
        f"{config.model.path}: {total - trainable:,} parameters, {weights} weights in {in_memory}, "
        f"computing in {computing}"
    )
    ui.say(
        f"{adapter_text(config.adapter)}: {trainable:,} trainable parameters of {total:,} "
        f"({percent(trainable / total)}), {size(4 * trainable)} in float32"
    )


def adapter_text(adapter: AdapterConfig) -> str:
    """Write an adapter's method with the settings that it has."""
    said = [find_method(adapter.method).title]
    said += [f"r={adapter.r}"] if adapter.r else []
    said += [f"alpha={adapter.lora_alpha:g}"] if adapter.lora_alpha else []
    said += ["rank-stabilised"] if adapter.use_rslora else []
    said += ["weight-decomposed"] if adapter.use_dora else []
    said += [f"started as {adapter.init_lora_weights}"] if adapter.init_lora_weights != "true" else []
    return ", ".join(said)


def step_detail(line: Mapping[str, Any]) -> str:
    """Write one step's figures for the progress bar."""
    return (
        f"loss {line['loss']:.3f}  lr {line['learning_rate']:.1e}  {line['tokens_per_second']:.0f} tok/s  "
        f"{size(line['memory'])}"
    )


def show_metrics(ui: UI, summary: Mapping[str, Any]) -> None:
    """Show each metric before and after, and the paired difference."""
    rows = [
        (
            described["name"],
            *(figure_text(summary[which][key], described) for which in ("before", "after")),
            change_text(summary["difference"][key], described),
        )
        for key, described in summary["metrics"].items()
    ]
    ui.table(("95% intervals", ">before", ">after", ">difference"), rows)
    if majority := summary.get("majority"):
        share = percent(majority["share"])
        ui.say(f"the most frequent label alone, '{majority['label']}', would be right in {share} of the rows")
        if majority["given_to_all"]:
            ui.warn(
                f"after training every row is answered with '{majority['given_to_all']}': it has not learned to tell "
                "them apart; train for longer, with a lower train.learning_rate, or on more rows"
            )
    for which in ("before", "after"):
        for one in summary.get("by_group", {}).get("worse", {}).get(which, ()):
            described = summary["metrics"][one["metric"]]
            ui.warn(
                f"{which} training, rows with {summary['by_group']['column']}={one['group']} are served worse than the "
                f"others: {described['name']} {change_text(one, described)}"
            )


def figure_text(interval: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    """Write a metric with its interval."""
    if interval["value"] is None:
        return "not defined"
    write = percent if described["percent"] else _number
    return f"{write(interval['value'])} ({write(interval['low'])} to {write(interval['high'])})"


def change_text(interval: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    """Write the difference of a metric with its interval."""
    if interval["value"] is None:
        return "not defined"
    if described["percent"]:
        value, low, high = (100 * interval[name] for name in ("value", "low", "high"))
        return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"
    return f"{interval['value']:+.3g} ({interval['low']:+.3g} to {interval['high']:+.3g})"


def _number(value: float) -> str:
    return f"{value:.3g}"


def show_end(ui: UI, resolved: Resolved, folder: RunFolder, summary: Mapping[str, Any]) -> None:
    """Say, on one screen, what improved, what it cost, and what to do next."""
    ui.stage("Result")
    show_result(ui, summary)
    ui.stage("Next")
    ui.say(f"  look:     {folder.report}")
    ui.say(f'  use it:   peftkit predict {shlex.quote(str(folder.path))} "your text"')
    if summary["after"]:
        ui.say(f"  judge it: peftkit eval {shlex.quote(str(folder.path))}")
    ui.say(f"  merge it: peftkit merge {shlex.quote(str(folder.path))} {shlex.quote(folder.path.name + '-merged')}")
    ui.say(f"  larger:   {preset_advice(resolved.recipe, resolved.config.preset)}")
    ui.say(f"{folder.path}", style="bold")


def show_result(ui: UI, summary: Mapping[str, Any]) -> None:
    """Say what improved, and what it cost."""
    if not summary["after"]:
        ui.warn("nothing was compared, as no held-out rows were judged: see evaluate.max_rows and data.test_path")
    else:
        show_metrics(ui, summary)
        if changed := summary.get("mcnemar"):
            rows = next(iter(summary["after"].values()))["n"]
            ui.say(
                f"of {rows} held-out rows {changed['fixed']} were fixed and {changed['broken']} broken "
                f"(McNemar p = {changed['p_value']:.2g})"
            )
    memory, forecast = summary["memory"], summary.get("forecast") or {}
    used = f"peak memory {size(memory['peak_rss'])}"
    foreseen = forecast.get("memory")
    if memory["peak_cuda_allocated"]:
        used += f", {size(memory['peak_cuda_allocated'])} on the GPU"
        foreseen = forecast.get("allocated")
    if foreseen:
        used += f" (forecast {size(foreseen)})"
    ui.say(
        f"{duration(summary['time']['total'])} in all, {duration(summary['train']['seconds'])} of it training at "
        f"{summary['tokens_per_second']:.0f} tokens/s; {used}; adapter {size(summary['adapter']['bytes'])}"
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
