"""How fast and small training is, and what it learned meanwhile."""

import statistics

from peftkit.bench.result import Result, Run, read_result
from peftkit.plan.cards import GIB

from .common import LIBRARIES, RESULTS, read, where

LAST = 20
"""Steps at the end of a loss curve that are told apart."""


def ladder() -> str:
    """Return the table of what each lever against memory brings, as traced."""
    result = read("ladder-meta.json")
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
    result = read("ladder-meta.json")
    rungs = [one for one in result["rungs"] if not one["alone"]]
    (advised,) = (one for one in rungs if one["name"].endswith("TRL as it is advised"))
    return (
        f"With {result['limit'] / GIB:g} GiB of a GPU the longest text of Llama-3.1-8B in nf4 goes from "
        f"{advised['largest']:,} tokens (TRL as its documentation advises) to {rungs[-1]['largest']:,}. This is traced "
        "on tensors without memory, not measured on a GPU."
    )


def throughput() -> str:
    """Return the table of training throughput."""
    result = read_result(RESULTS / "cpu")
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
    return f"{result.rounds} rounds; medians.{judged} {where(result.model_dump())}"


def throughput_short() -> str:
    """Return the short table of throughput: one row for each case."""
    result = read_result(RESULTS / "cpu")
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
    result = read_result(RESULTS / "cpu-loss")
    lines = [
        f"| | | mean loss of all steps | of the last {LAST} steps | of held-out rows | beside {result.reference} |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    beside = _beside_reference(result)
    for one in result.runs:
        found = " | ".join(f"{value:.4f}" for value in _learned(one))
        last = ", ".join(f"{share:+.1f}%" for share in beside.get((one.case, one.contestant), ()))
        lines.append(f"| {one.case} | {one.contestant} | {found} | {last} |")
    return "\n".join(lines) + f"\n\nOne seed. {where(result.model_dump())}\n"


def losses_short() -> str:
    """Say in a sentence how losses compare."""
    result = read_result(RESULTS / "cpu-loss")
    beside = list(_beside_reference(result).values())
    words = ("the mean loss is", f"that of the last {LAST} steps", "that of held-out rows")
    said = [
        f"{name} {round(min(one)):+d}% to {round(max(one)):+d}%"
        for name, one in zip(words, zip(*beside, strict=True), strict=True)
    ]
    steps = len(result.runs[0].detail["losses"])
    ((mean, _, held_out),) = _beside_reference(read_result(RESULTS / "cpu-loss-float32")).values()
    return (
        f"Where both compute in float32 throughout, {steps} steps on the same batches have the same loss as TRL's "
        f"(mean {mean:+.2f}%, held-out rows {held_out:+.2f}%). In bfloat16, where the two round in different places, "
        f"in {len(beside)} cases {', '.join(said)}."
    )


def losses_control() -> str:
    """Say how far losses are apart where both compute in float32 throughout."""
    result = read_result(RESULTS / "cpu-loss-float32")
    curves = [one.detail["losses"] for one in result.runs]
    apart = max(abs(one / other - 1) for one, other in zip(*curves, strict=True))
    ((mean, _, held_out),) = _beside_reference(result).values()
    return (
        f"Over {len(curves[0])} steps of `sentiment` the mean loss differs by {mean:+.2f}%, that of one step by "
        f"{100 * apart:.2f}% at most, and that of held-out rows by {held_out:+.2f}%. {where(result.model_dump())}\n"
    )


def _beside_reference(result: Result) -> dict[tuple[str, str], list[float]]:
    """Return by how many percent losses are above the reference's, by case and contestant."""
    learned = {(one.case, one.contestant): _learned(one) for one in result.runs}
    return {
        (case, name): [
            100 * (mine / other - 1) for mine, other in zip(found, learned[case, result.reference or ""], strict=True)
        ]
        for (case, name), found in learned.items()
        if name != result.reference
    }


def _learned(run: Run) -> tuple[float, float, float]:
    """Return a run's mean loss over all steps, over the last ones, and on held-out rows."""
    curve = run.detail["losses"]
    return statistics.mean(curve), statistics.mean(curve[-LAST:]), float(run.measures["held_out_loss"] or 0)


BLOCKS = {
    "ladder": ladder,
    "ladder-short": ladder_short,
    "throughput": throughput,
    "throughput-short": throughput_short,
    "losses": losses,
    "losses-short": losses_short,
    "losses-control": losses_control,
}
