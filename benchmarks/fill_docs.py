"""Put the figures of `results/` into README.md and docs/*.md, between the markers that name them.

python benchmarks/fill_docs.py [--check]
"""

import argparse
import contextlib
import io
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from suite import JOBS

from peftkit import screen
from peftkit.adapter.method_list import list_methods, parameters
from peftkit.adapter.methods import FIGURES
from peftkit.bench.result import Result, Run, read_result
from peftkit.plan.cards import GIB
from peftkit.ui import UI

HERE = Path(__file__).parent
PARTS = ("before", "after")
LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes")
ROOT = HERE.parent
LAST = 20
"""Steps at the end of a loss curve that are told apart."""
BLOCK = re.compile(r"(<!-- ([a-z-]+) -->\n?).*?(<!-- /\2 -->)", flags=re.S)


def main() -> None:
    """Fill in every block; with `--check`, fail if a page would change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    pages = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}
    blocks = {
        "ending": ending,
        "main-job": main_job,
        "suite": suite,
        "suite-metrics": suite_metrics,
        "forecast": forecasts,
        "forecast-short": forecasts_short,
        "forecast-runs": forecast_runs,
        "plan-speed": plan_speed,
        "faults": faults,
        "methods": methods,
        "merge": merging,
        "merge-short": merging_short,
        "export": exporting,
        "export-short": exporting_short,
        "ladder": ladder,
        "ladder-short": ladder_short,
        "throughput": throughput,
        "throughput-short": throughput_short,
        "losses": losses,
        "losses-short": losses_short,
    }
    placed = [found[2] for text in pages.values() for found in BLOCK.finditer(text)]
    if sorted(placed) != sorted(blocks):
        sys.exit(f"each of these blocks has one place in README.md and docs: {sorted(blocks)}; found: {sorted(placed)}")
    for path, text in pages.items():
        filled = BLOCK.sub(lambda found: found[1] + blocks[found[2]]() + found[3], text)
        if options.check and filled != text:
            sys.exit(f"{path.name} has other figures than benchmarks/results; run python benchmarks/fill_docs.py")
        path.write_text(filled, encoding="utf-8")


def ending() -> str:
    """Return what the first seed's run said at its end."""
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        screen.show_result(UI(), _read("main-job-cpu.json")["runs"][0])
    return f"```text\n{written.getvalue().rstrip()}\n```\n"


def main_job() -> str:
    """Return the table of the main job's seeds."""
    result = _read("main-job-cpu.json")
    runs = result["runs"]
    lines = [
        "| seed | accuracy before | after | paired difference (95% interval) | training | in all | peak memory |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for run in runs:
        before, after, difference = (run[part]["accuracy"] for part in ("before", "after", "difference"))
        low, high = 100 * difference["low"], 100 * difference["high"]
        cells = (
            run["seed"],
            _percent(before["value"]),
            _percent(after["value"]),
            f"{100 * difference['value']:+.1f} points ({low:+.1f} to {high:+.1f})",
            f"{run['train']['seconds']:.0f} s",
            f"{run['time']['total']:.0f} s",
            f"{run['memory']['peak_rss'] / 1e9:.2f} GB",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    was, now = (statistics.median(run[part]["likelihood_accuracy"]["value"] for run in runs) for part in PARTS)
    note = (
        f"Accuracy of generated answers on {runs[0]['after']['accuracy']['n']} held-out rows. The untrained model "
        "hardly ever answers with one of the two words alone; by which of them it finds likelier, it goes from "
        f"{_percent(was)} to {_percent(now)} (median of the seeds)."
    )
    return "\n".join(lines) + f"\n\n{note} {_where(result)}\n"


def suite() -> str:
    """Return the table of what each recipe reached, by the metric that decides."""
    results = _suite()
    lines = [
        "| run | base model | rows trained, held out | metric | before | after | paired difference (95% interval) "
        "| in all | peak memory |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, result in results.items():
        cells = (
            name,
            result["model"],
            f"{result['rows']['train']:,}, {result['rows']['test']:,}",
            *_metric(result, next(iter(result["metrics"]))),
            f"{result['time']['total']:.0f} s",
            f"{result['memory']['peak_rss'] / 1e9:.2f} GB",
        )
        lines.append(f"| {' | '.join(cells)} |")
    first = next(iter(results.values()))
    return "\n".join(lines) + f"\n\nOne seed each. {_where(first | {'command': 'python benchmarks/suite.py'})}\n"


def suite_metrics() -> str:
    """Return the table of all metrics that each recipe reached."""
    lines = [
        "| run | metric | before | after | paired difference (95% interval) |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for name, result in _suite().items():
        lines += [f"| {' | '.join((name, *_metric(result, key)))} |" for key in result["metrics"]]
    return "\n".join(lines) + "\n"


def _suite() -> dict[str, dict[str, Any]]:
    measured = [name for name in JOBS if (HERE / "results" / "suite" / f"{name}.json").is_file()]
    return {name: _read(f"suite/{name}.json") for name in measured}


def _metric(result: dict[str, Any], key: str) -> tuple[str, str, str, str]:
    """Return a metric's name, its value before and after, and the difference with its interval."""
    described = result["metrics"][key]
    values = [result[part][key]["value"] for part in PARTS]
    change = [result["difference"][key][name] for name in ("value", "low", "high")]
    if None in (*values, *change):
        return described["name"], *("not defined" if value is None else f"{value:.3g}" for value in values), ""
    if described["percent"]:
        low, high = 100 * change[1], 100 * change[2]
        moved = f"{100 * change[0]:+.1f} points ({low:+.1f} to {high:+.1f})"
        return described["name"], _percent(values[0]), _percent(values[1]), moved
    moved = f"{change[0]:+.3g} ({change[1]:+.3g} to {change[2]:+.3g})"
    return described["name"], f"{values[0]:.3g}", f"{values[1]:.3g}", moved


def ladder() -> str:
    """Return the table of what each lever against memory brings, as traced."""
    result = _read("ladder-meta.json")
    lengths = [str(length) for length in result["lengths"]]
    limit, middle = result["limit"] / GIB, lengths[len(lengths) // 2]
    least = min(one["flops_per_token"][middle] for one in result["rungs"])
    lines = [
        f"| | {' | '.join(f'{int(one):,} tokens' for one in lengths)} | longest text in {limit:g} GiB "
        f"| torch takes for it | main memory for it | computing for each token, at {int(middle):,} |",
        f"| --- | {' | '.join('---:' for _ in lengths)} | ---: | ---: | ---: | ---: |",
    ]
    for one in result["rungs"]:
        main = one["main_memory_at_largest"]
        cells = (
            f"*{one['name']}*" if one["alone"] else one["name"],
            *(f"{one['peak'][length] / GIB:.1f} GiB" for length in lengths),
            f"{one['largest']:,}",
            f"{one['reserved_at_largest'] / GIB:.1f} GiB",
            f"{main / GIB:.0f} GiB" if main else "",
            f"{one['flops_per_token'][middle] / least:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {result['versions'][name]}" for name in LIBRARIES)
    note = (
        "Traced, not measured; a row has what those above it have, *slanted* ones stand alone. Torch takes more than "
        "what is alive, as its allocator rounds and leaves gaps. Computing is counted in operations, 1 is the least. "
        f"The model itself has positions for 131,072 tokens. {versions}; `{result['command']}`, {result['date'][:10]}."
    )
    return "\n".join(lines) + f"\n\n{note}\n"


def ladder_short() -> str:
    """Return how long a text fits as TRL is advised, and with every lever that stands on it."""
    result = _read("ladder-meta.json")
    rungs = [one for one in result["rungs"] if not one["alone"]]
    (advised,) = (one for one in rungs if one["name"].endswith("TRL as it is advised"))
    return (
        f"With {result['limit'] / GIB:g} GiB of a GPU the longest text of Llama-3.1-8B in nf4 goes from "
        f"{advised['largest']:,} tokens (TRL as its documentation advises) to {rungs[-1]['largest']:,}. This is traced "
        "on tensors without memory, not measured on a GPU."
    )


def throughput() -> str:
    """Return the table of training throughput."""
    result = read_result(HERE / "results" / "cpu")
    lines = [
        "| experiment | | non-padding tokens/s | peak memory | loss on held-out rows "
        "| peftkit is faster by (median of rounds, range) | its memory |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    judging = {name for name, case in result.settings["cases"].items() if case.get("judges")}
    for one in result.medians:
        if one.case in judging:
            continue
        ratios = {
            ratio.measure: ratio for ratio in result.ratios if (ratio.case, ratio.against) == (one.case, one.contestant)
        }
        speed, memory = ratios.get("tokens_per_second"), ratios.get("peak_allocated")
        loss, peak = one.measures.get("held_out_loss"), one.measures.get("peak_allocated")
        cells = (
            one.case,
            one.contestant,
            f"{one.measures.get('tokens_per_second') or 0:.0f}" if one.runs else "did not run",
            f"{peak / 1e9:.2f} GB" if peak else "",
            f"{loss:.4f}" if loss is not None else "",
            f"{speed.median:.2f}x ({speed.low:.2f} to {speed.high:.2f})" if speed else "",
            f"{memory.median:.2f}x" if memory else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\n{_throughput_note(result)}\n"


def _throughput_note(result: Result) -> str:
    worse = [f"{one.contestant} in {one.case}" for one in result.quality if not one.equal]
    judged = f" Its loss is more than 1% above that of {result.reference}: {', '.join(worse)}." if worse else ""
    return f"{result.rounds} rounds; medians.{judged} {_where(result.model_dump())}"


def throughput_short() -> str:
    """Return the short table of throughput: one row for each case."""
    result = read_result(HERE / "results" / "cpu")
    others = list(dict.fromkeys(one.against for one in result.ratios if one.contestant == "peftkit"))
    heads = ["peftkit, tokens/s", *(f"{what} beside {name}" for name in others for what in ("speed", "memory"))]
    lines = [f"| | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    found = {(one.case, one.against, one.measure): f"{one.median:.2f}x" for one in result.ratios}
    for one in result.medians:
        if one.contestant == "peftkit" and not result.settings["cases"][one.case].get("judges"):
            measures = ("tokens_per_second", "peak_allocated")
            ratios = [found.get((one.case, name, measure), "") for name in others for measure in measures]
            speed = f"{one.measures.get('tokens_per_second') or 0:.0f}"
            lines.append(f"| {' | '.join((one.case, speed, *ratios))} |")
    return "\n".join(lines) + f"\n\n{_throughput_note(result)}\n"


def losses() -> str:
    """Return the table of losses on the same batches."""
    result = read_result(HERE / "results" / "cpu-loss")
    lines = [
        f"| | | mean loss of all steps | of the last {LAST} steps | of held-out rows | beside {result.reference} |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    beside = _beside_reference(result)
    for one in result.runs:
        found = " | ".join(f"{value:.4f}" for value in _learned(one))
        last = ", ".join(f"{share:+.1f}%" for share in beside[one.case]) if one.contestant != result.reference else ""
        lines.append(f"| {one.case} | {one.contestant} | {found} | {last} |")
    return "\n".join(lines) + f"\n\nOne seed. {_where(result.model_dump())}\n"


def losses_short() -> str:
    """Say in a sentence how losses compare."""
    result = read_result(HERE / "results" / "cpu-loss")
    beside = list(_beside_reference(result).values())
    words = ("the mean loss is", f"that of the last {LAST} steps", "that of held-out rows")
    said = [
        f"{name} {round(min(one)):+d}% to {round(max(one)):+d}%"
        for name, one in zip(words, zip(*beside, strict=True), strict=True)
    ]
    steps = len(result.runs[0].detail["losses"])
    return (
        f"After {steps} steps on the same batches in {len(beside)} cases, beside {result.reference} {', '.join(said)}."
    )


def _beside_reference(result: Result) -> dict[str, list[float]]:
    """Return by how many percent peftkit's losses are above the reference's, by case."""
    learned = {(one.case, one.contestant): _learned(one) for one in result.runs}
    return {
        case: [
            100 * (mine / other - 1) for mine, other in zip(found, learned[case, result.reference or ""], strict=True)
        ]
        for (case, name), found in learned.items()
        if name == "peftkit"
    }


def _learned(run: Run) -> tuple[float, float, float]:
    """Return a run's mean loss over all steps, over the last ones, and on held-out rows."""
    curve = run.detail["losses"]
    return statistics.mean(curve), statistics.mean(curve[-LAST:]), float(run.measures["held_out_loss"] or 0)


def merging() -> str:
    """Return the tables of merging: time and memory by size of model, and what becomes of a QLoRA adapter."""
    result, qlora = read_result(HERE / "results" / "merge"), _read("merge-qlora-cpu.json")
    lines = [
        "| model, bfloat16 | files | peftkit | over copying the files | PEFT | memory beyond imports and adapter: "
        "peftkit | PEFT |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    found = {(one.case, one.contestant): one.measures for one in result.medians}
    for name, one in result.settings["cases"].items():
        ours, theirs = found[name, "peftkit"], found.get((name, "peft"))
        (over,) = (ratio for ratio in result.ratios if (ratio.case, ratio.against) == (name, "copy"))
        without = "does not fit" if one["bytes"] > result.machine["memory"] else "not measured"
        beyond = [(who["peak"] - who["before"] - one["adapter_bytes"]) / 1e6 for who in (ours, theirs) if who]
        cells = (
            f"{one['bytes'] / 1e9:.1f} GB",
            one["files"],
            f"{ours['seconds']:.1f} s",
            f"{over.median:.2f}x ({over.low:.2f} to {over.high:.2f})",
            f"{theirs['seconds']:.1f} s" if theirs else without,
            f"{beyond[0]:.0f} MB",
            f"{beyond[1]:,.0f} MB" if theirs else "",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    rounds = ", ".join(str(one.rounds) for one in result.ratios if one.against == "copy")
    note = f"LoRA of rank {result.settings['rank']} on all linear layers, random weights; rounds: {rounds}; medians."
    table = [
        "| a QLoRA adapter of the embedded model, merged | divergence from the model that was trained (nats) "
        "| same likeliest token | accuracy |",
        "| --- | ---: | ---: | ---: |",
    ]
    first = next(iter(qlora["ways"].values()))
    table.append(f"| not merged | 0 | 100.0% | {_percent(first['accuracy']['live']['value'])} |")
    for name, one in qlora["ways"].items():
        if name == "the better one":
            name = f"the better one on validation rows: onto {one['onto']}"
        found = one["to_trained"]
        accuracy = _percent(one["accuracy"]["merged"]["value"])
        cells = (f"{found['kl']:.2g}", _percent(found["top1"]), accuracy)
        table.append(f"| {name} | {' | '.join(cells)} |")
    base = first["to_base"]
    table.append(f"| base model alone | {base['kl']:.2g} | {_percent(base['top1'])} | |")
    rows = f"One seed, {first['rows']['count']} held-out rows, divergence over {base['positions']:,} positions."
    return (
        "\n".join(lines)
        + f"\n\n{note} {_where(result.model_dump())}\n\n"
        + "\n".join(table)
        + f"\n\n{rows} {_where(qlora)}\n"
    )


def merging_short() -> str:
    """Return time and memory of the largest merge that PEFT's was measured beside."""
    result = read_result(HERE / "results" / "merge")
    found = {(one.case, one.contestant): one.measures for one in result.medians}
    case = max((name for name, who in found if who == "peft"), key=lambda name: result.settings["cases"][name]["bytes"])
    size, adapter = (result.settings["cases"][case][name] for name in ("bytes", "adapter_bytes"))
    (ours, beyond), (theirs, more) = (
        (one["seconds"], (one["peak"] - one["before"] - adapter) / 1e6)
        for one in (found[case, who] for who in ("peftkit", "peft"))
    )
    return (
        f"A model of {size / 1e9:.1f} GB is merged in {ours:.1f} s with {beyond:.0f} MB of memory beyond imports and "
        f"adapter; PEFT takes {theirs:.1f} s and {more:,.0f} MB."
    )


def exporting() -> str:
    """Return the table of what other programs make of one adapter, and what was counted of tokens and templates."""
    result = _read("export-readers.json")
    seen = [one for one in result["programs"] if "figure" in one]
    lines = ["| program | reads | measure | seen | limit |", "| --- | --- | --- | ---: | ---: |"]
    for one in seen:
        if _counted(one) or one["note"].startswith("a small random"):
            continue
        versions = " ".join(map(str, one["versions"].values())).split(" ")[0]
        limit = f"{one['limit']:.2g}" if one["limit"] else ""
        cells = (f"{one['program']} {versions}", one["note"], one["measure"], f"{one['figure']:.2g}", limit)
        lines.append(f"| {' | '.join(cells)} |")
    counts = [one for one in seen if _counted(one)]
    tokens = [one for one in counts if "token ids" in one["measure"]]
    written = [one for one in counts if "token ids" not in one["measure"]]
    small = [one for one in seen if one["note"].startswith("a small random")]
    note = (
        "One adapter of the embedded model, trained for 30 steps with rsLoRA and patterns for ranks and scales. One "
        "that changes the model more is further away on a quantized base, as its merged model is. "
        f"llama.cpp split {_wrong(tokens)} of {1000 * len(tokens):,} texts otherwise than the tokenizers "
        f"({len(tokens)} rules). Go wrote {_wrong(written)} of "
        f"{sum(int(one['note'].rpartition(' ')[2]) for one in written)} conversations otherwise than "
        f"{len(written)} chat templates. Of {len(small)} small random models (biases, Llama 3's scaled rotation, "
        f"Qwen2, Qwen3, GPT-2) llama.cpp's answers are at most {max(one['figure'] for one in small):.1g} nats away."
    )
    where = _where(result | {"command": "pytest -m readers -n0 tests/export/test_readers.py"})
    return "\n".join(lines) + f"\n\n{note} {where}\n"


def exporting_short() -> str:
    """Return how near llama.cpp comes where nothing is quantized."""
    seen = [one for one in _read("export-readers.json")["programs"] if one.get("limit") == 1e-4]
    worst = max(one["figure"] for one in seen if one["program"].startswith("llama") and not _counted(one))
    return f"llama.cpp's answers are at most {worst:.2g} nats from those of transformers, where nothing is quantized."


def _counted(one: dict[str, Any]) -> bool:
    return one["measure"].endswith(("with other token ids", "with another text"))


def _wrong(rows: list[dict[str, Any]]) -> int:
    return int(sum(one["figure"] for one in rows))


def forecasts() -> str:
    """Return the table of measured and forecast memory, on a processor and, where it was measured, on a GPU."""
    result = read_result(HERE / "results" / "forecast-cpu")
    parts = [f"{_forecast_error(result)} {_where(result.model_dump())}", _forecast_table(result)]
    if (HERE / "results" / "forecast-cuda").is_dir():
        result = read_result(HERE / "results" / "forecast-cuda")
        parts += [_forecast_table(result), _where(result.model_dump())]
    return "\n\n".join(parts) + "\n"


def forecasts_short() -> str:
    """Return how far forecasts of memory were off."""
    result = read_result(HERE / "results" / "forecast-cpu")
    return f"{_forecast_error(result)} {_machine(result.machine)}."


def forecast_runs() -> str:
    """Return the table of whole runs beside what they forecast."""
    result = read_result(HERE / "results" / "forecast-runs")
    lines = [
        "| run | earlier runs are known | seconds of a step | forecast | memory of the process | forecast | |",
        "| --- | :---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    inside = 0
    for one in result.runs:
        seen = {name: float(value or 0) for name, value in one.measures.items()}
        inside += seen["forecast_step_low"] <= seen["step"] <= seen["forecast_step_high"]
        cells = (
            f"`{one.case}`",
            "yes" if one.round > 1 else "no",
            f"{seen['step']:.2f}",
            f"{seen['forecast_step_low']:.2f} to {seen['forecast_step_high']:.2f}",
            f"{seen['peak_rss'] / 1e9:.2f} GB",
            f"{seen['forecast_memory'] / 1e9:.2f} GB",
            f"{100 * seen['error']:+.1f}%",
        )
        lines.append(f"| {' | '.join(cells)} |")
    said = f"A step took a time inside the forecast's range in {inside} of {len(result.runs)} runs."
    return "\n".join(lines) + f"\n\n{said} {_where(result.model_dump())}\n"


def plan_speed() -> str:
    """Say how long plans of large models take."""
    result = read_result(HERE / "results" / "plan-speed")
    said = [
        f"{one.case} {one.measures['seconds']:.1f} s and {(one.measures['peak_rss'] or 0) / 1e9:.2f} GB"
        for one in result.medians
    ]
    return f"Plans take (medians of {result.rounds}): {'; '.join(said)}. {_where(result.model_dump())}\n"


def _forecast_error(result: Result) -> str:
    worst = max(abs(one.measures["error"] or 0) for one in result.runs)
    return (
        f"Peak of live tensor bytes of real steps in {len(result.runs)} combinations, measured and forecast; the "
        f"largest difference is {100 * worst:.2f}%."
    )


def _forecast_table(result: Result) -> str:
    lines = ["| model | weights | computed in | rows, settings | measured | forecast | difference |"]
    lines.append("| --- | --- | --- | --- | ---: | ---: | ---: |")
    for one in result.runs:
        measured, forecast = (one.measures.get(name) for name in ("peak_allocated", "forecast_memory"))
        sizes = [f"{size / 1e6:,.1f} MB" if size else "out of memory" for size in (measured, forecast)]
        error = f"{100 * (forecast / measured - 1):+.4f}%" if measured and forecast else ""
        case = f"`{one.detail['case']}`"
        kinds = [str(one.detail[name]) for name in ("model", "quantization", "dtype")]
        lines.append(f"| {' | '.join((*kinds, case, *sizes, error))} |")
    return "\n".join(lines)


def faults() -> str:
    """Return what became of the runs that were killed at random instants."""
    row = _read("faults.json")["kills"]
    return (
        f"Of {row['tried']} kills of short runs at random instants, {row['passed']} ended in the same bytes as a run "
        f"that was left alone (`{row['command']}`, {row['date']})."
    )


def methods() -> str:
    """Return the table of adapter methods: what was seen, and PEFT's own figures."""
    lines = [
        "| method | none | nf4 | int8 | trained | as LoRA | PEFT's figure | when to choose it |",
        "| --- | :---: | :---: | :---: | ---: | :---: | ---: | --- |",
    ]
    reasons: dict[str, list[str]] = {}
    for row in list_methods():
        for reason in dict.fromkeys(works for works in row["works"].values() if works is not True):
            held = ", ".join(base for base, works in row["works"].items() if works == reason)
            reasons.setdefault(reason, []).append(f"`{row['name']}` ({held})")
        cells = (
            f"`{row['name']}`",
            *("yes" if works is True else "no" for works in row["works"].values()),
            parameters(row["relative_parameters"]),
            "yes" if row["converts_to_lora"] else "",
            f"{row['accuracy']:.2f}" if row["accuracy"] is not None else "",
            row["when"],
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Where there is a no:", ""]
    lines += [f"- {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    lines += ["", f"PEFT's figure is {FIGURES}."]
    return "\n".join(lines) + "\n"


def _where(result: dict[str, Any]) -> str:
    versions = result["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in LIBRARIES)
    return f"{_machine(result['machine'])}; {named}; `{result['command']}`, {result['date'][:10]}."


def _machine(machine: dict[str, Any]) -> str:
    return f"{machine['cpu']}, {machine['cores']} cores, no GPU"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / "results" / name).read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    main()
