"""Results as the tests need them."""

from peftkit.bench.result import Result, Run, summed_up

MACHINE = {
    "cpu": "A processor",
    "cores": 2,
    "memory": 25 * 10**9,
    "gpu": None,
    "gpu_memory": 0,
    "python": "3.12",
    "platform": "Linux",
    "kind": "2 cores, float32",
}


def turn(case, who, number, speed, loss=1.0, memory=10**9, **detail):
    """A turn that went well."""
    measures = {"tokens_per_second": speed, "peak_allocated": memory, "held_out_loss": loss, "step_p50": 1 / speed}
    return Run(case=case, contestant=who, round=number, measures=measures, detail=detail)


def result(runs, *, reference="TRL", cases=None, **values):
    """A result of these turns, summed up."""
    contestants = list(dict.fromkeys(one.contestant for one in runs))
    found = Result(
        kind="training",
        name="made",
        date="2026-01-01T00:00:00+00:00",
        command="peftkit bench run made.yaml",
        machine={**MACHINE, **values.pop("machine", {})},
        versions={"torch": "2.13.0"},
        settings={"contestants": contestants, "cases": cases or {}},
        rounds=max(one.round for one in runs),
        runs=runs,
        **values,
    )
    return summed_up(found, ("tokens_per_second", "peak_allocated"), reference)


def three_rounds(speed=2.0, loss=1.0, memory=8 * 10**8):
    """Rounds on a machine that slows down: peftkit is `speed` times as fast in each."""
    pace = (100.0, 50.0, 80.0)
    return result(
        [
            one
            for number, base in enumerate(pace, 1)
            for one in (
                turn("small", "peftkit", number, speed * base, loss, memory),
                turn("small", "TRL", number, base),
            )
        ]
    )
