"""What plans and runs forecast, beside what was measured."""

from peftkit.bench.result import Result, read_result

from .common import RESULTS, machine, where


def forecasts() -> str:
    """Return the table of measured and forecast memory, on a processor and, where it was measured, on a GPU."""
    result = read_result(RESULTS / "forecast-cpu")
    parts = [f"{_forecast_error(result)} {where(result.model_dump())}", _forecast_table(result)]
    if (RESULTS / "forecast-cuda").is_dir():
        result = read_result(RESULTS / "forecast-cuda")
        parts += [_forecast_table(result), where(result.model_dump())]
    return "\n\n".join(parts) + "\n"


def forecasts_short() -> str:
    """Return how far forecasts of memory were off."""
    result = read_result(RESULTS / "forecast-cpu")
    return f"{_forecast_error(result)} {machine(result.machine)}."


def forecast_runs() -> str:
    """Return the tables of whole runs beside what they forecast."""
    return "\n".join(_runs(read_result(RESULTS / name)) for name in ("forecast-runs", "forecast-runs-bfloat16"))


def _runs(result: Result) -> str:
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
    return "\n".join(lines) + f"\n\n{said} {where(result.model_dump())}\n"


def plan_speed() -> str:
    """Say how long plans of large models take."""
    result = read_result(RESULTS / "plan-speed")
    said = [
        f"{one.case} {one.measures['seconds']:.1f} s and {(one.measures['peak_rss'] or 0) / 1e9:.2f} GB"
        for one in result.medians
    ]
    return f"Plans take (medians of {result.rounds}): {'; '.join(said)}. {where(result.model_dump())}\n"


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


BLOCKS = {
    "forecast": forecasts,
    "forecast-short": forecasts_short,
    "forecast-runs": forecast_runs,
    "plan-speed": plan_speed,
}
