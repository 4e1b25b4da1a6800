"""Adapters: their methods, merging, and what other programs make of them."""

from typing import Any

from peftkit.adapter.method_list import list_methods, parameters
from peftkit.adapter.methods import FIGURES
from peftkit.bench.result import read_result

from .common import RESULTS, percent, read, where


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


def merging() -> str:
    """Return the tables of merging: time and memory by size of model, and what becomes of a QLoRA adapter."""
    result, qlora = read_result(RESULTS / "merge"), read("merge-qlora-cpu.json")
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
    table.append(f"| not merged | 0 | 100.0% | {percent(first['accuracy']['live']['value'])} |")
    for name, one in qlora["ways"].items():
        if name == "the better one":
            name = f"the better one on validation rows: onto {one['onto']}"
        found = one["to_trained"]
        accuracy = percent(one["accuracy"]["merged"]["value"])
        cells = (f"{found['kl']:.2g}", percent(found["top1"]), accuracy)
        table.append(f"| {name} | {' | '.join(cells)} |")
    base = first["to_base"]
    table.append(f"| base model alone | {base['kl']:.2g} | {percent(base['top1'])} | |")
    rows = f"One seed, {first['rows']['count']} held-out rows, divergence over {base['positions']:,} positions."
    return (
        "\n".join(lines)
        + f"\n\n{note} {where(result.model_dump())}\n\n"
        + "\n".join(table)
        + f"\n\n{rows} {where(qlora)}\n"
    )


def merging_short() -> str:
    """Return time and memory of the largest merge that PEFT's was measured beside."""
    result = read_result(RESULTS / "merge")
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
    result = read("export-readers.json")
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
    source = where(result | {"command": "pytest -m readers -n0 tests/export/test_readers.py"})
    return "\n".join(lines) + f"\n\n{note} {source}\n"


def exporting_short() -> str:
    """Return how near llama.cpp comes where nothing is quantized."""
    seen = [one for one in read("export-readers.json")["programs"] if one.get("limit") == 1e-4]
    worst = max(one["figure"] for one in seen if one["program"].startswith("llama") and not _counted(one))
    return f"llama.cpp's answers are at most {worst:.2g} nats from those of transformers, where nothing is quantized."


def _counted(one: dict[str, Any]) -> bool:
    return one["measure"].endswith(("with other token ids", "with another text"))


def _wrong(rows: list[dict[str, Any]]) -> int:
    return int(sum(one["figure"] for one in rows))


BLOCKS = {
    "methods": methods,
    "merge": merging,
    "merge-short": merging_short,
    "export": exporting,
    "export-short": exporting_short,
}
