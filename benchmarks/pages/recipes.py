"""What the recipes reached: the main job, and the suite of all recipes."""

import contextlib
import io
import statistics
from typing import Any

from suite import JOBS

from peftkit import screen
from peftkit.ui import UI

from .common import RESULTS, percent, read, where

PARTS = ("before", "after")


def ending() -> str:
    """Return what the first seed's run said at its end."""
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        screen.show_result(UI(), read("main-job-cpu.json")["runs"][0])
    return f"```text\n{written.getvalue().rstrip()}\n```\n"


def main_job() -> str:
    """Return the table of the main job's seeds."""
    result = read("main-job-cpu.json")
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
            percent(before["value"]),
            percent(after["value"]),
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
        f"{percent(was)} to {percent(now)} (median of the seeds)."
    )
    return "\n".join(lines) + f"\n\n{note} {where(result)}\n"


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
    return "\n".join(lines) + f"\n\nOne seed each. {where(first | {'command': 'python benchmarks/suite.py'})}\n"


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
    measured = [name for name in JOBS if (RESULTS / "suite" / f"{name}.json").is_file()]
    return {name: read(f"suite/{name}.json") for name in measured}


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
        return described["name"], percent(values[0]), percent(values[1]), moved
    moved = f"{change[0]:+.3g} ({change[1]:+.3g} to {change[2]:+.3g})"
    return described["name"], f"{values[0]:.3g}", f"{values[1]:.3g}", moved


BLOCKS = {
    "ending": ending,
    "main-job": main_job,
    "suite": suite,
    "suite-metrics": suite_metrics,
}
