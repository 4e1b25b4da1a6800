"""What a benchmark leaves: one form for every kind of it, read strictly, with medians and ratios within rounds."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from peftkit.errors import DataError
from peftkit.rundir import write_json, write_text

RESULT = "result.json"
TABLE = "runs.csv"
SCHEMA = Path(__file__).with_name("result.schema.json")

Status = Literal["ok", "out of memory", "failed", "missing", "out of time"]

EQUAL = 0.01
"""Share by which a loss may be above the reference's for a speed to count."""


def _rounded(value: object) -> object:
    """Keep six digits: more are noise, and make files that nobody can compare."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


Measure = Annotated[float | int | None, BeforeValidator(_rounded)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Run(_Part):
    """One contestant's turn.

    Attributes:
        case: What was done: an experiment's name, or a model's size.
        contestant: By whom.
        round: From 1.
        status: How it ended.
        reason: Type and first line of what went wrong; None where nothing did.
        measures: Numbers by name; sizes in bytes, times in seconds, shares from 0 to 1.
        detail: What else was seen: the loss of each step, the attention kernel.
    """

    case: str
    contestant: str
    round: int = Field(ge=1)
    status: Status = "ok"
    reason: str | None = None
    measures: dict[str, Measure] = {}
    detail: dict[str, Any] = {}


class Median(_Part):
    """The medians of one contestant's turns in one case, of those that went well."""

    case: str
    contestant: str
    runs: int
    measures: dict[str, Measure]


class Ratio(_Part):
    """One contestant's measure over another's, taken round by round."""

    case: str
    contestant: str
    against: str
    measure: str
    rounds: int
    median: float
    low: float
    high: float


class Quality(_Part):
    """Whether a contestant learned as much as the reference.

    Attributes:
        case: The experiment.
        contestant: Who.
        against: The reference.
        measure: Which loss is compared: `held_out_loss` of rows that nobody trained on, or `curve_loss`, the mean
            over all steps where all trained on the same batches.
        loss: The contestant's.
        reference_loss: The reference's.
        difference: How far the loss is above the reference's, as a share of it.
        equal: Whether it is not above by more than 1%.
    """

    case: str
    contestant: str
    against: str
    measure: str
    loss: float
    reference_loss: float
    difference: float
    equal: bool


class Result(_Part):
    """The content of a result's file.

    Attributes:
        format: Of the file.
        kind: What was measured: training, merging, preparing rows, a forecast, starting.
        name: Of the benchmark or the set of experiments.
        summary: What it is for.
        date: When it was written, UTC.
        command: What was typed.
        commit: Of the checkout; None where there was none.
        machine: Where; `kind` says what machines it can be compared with.
        versions: Of the libraries.
        limit: Bytes of a GPU that could be used; None for all of it.
        gpu_state: Clocks and power, as the driver said them; None where it cannot be asked.
        peak_rate: Operations a second that the machine can do, and where the number is from.
        settings: What was done in each case.
        rounds: How often each contestant took its turn.
        reference: The contestant that the loss is compared with.
        runs: Every turn.
        medians: Of the turns.
        ratios: Of contestants, round by round.
        quality: Of contestants against the reference.
    """

    format: Literal["peftkit-bench-1"] = "peftkit-bench-1"
    kind: Literal["training", "merging", "preparing rows", "forecast", "planning", "start-up"]
    name: str
    summary: str = ""
    date: str
    command: str
    commit: str | None = None
    machine: dict[str, Any]
    versions: dict[str, str]
    limit: int | None = None
    gpu_state: dict[str, str] | None = None
    peak_rate: dict[str, Any] | None = None
    settings: dict[str, Any] = {}
    rounds: int = Field(ge=1)
    reference: str | None = None
    runs: list[Run]
    medians: list[Median] = []
    ratios: list[Ratio] = []
    quality: list[Quality] = []

    def turns(self, case: str, contestant: str) -> dict[int, Run]:
        """Return a contestant's turns in a case that went well, by their round."""
        return {
            one.round: one for one in self.runs if (one.case, one.contestant, one.status) == (case, contestant, "ok")
        }

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Give each case with each of its contestants, in the order in which they came."""
        yield from dict.fromkeys((one.case, one.contestant) for one in self.runs)


def summed_up(result: Result, compared: Sequence[str], reference: str | None) -> Result:
    """Return a result with the medians, ratios and losses of its runs.

    Args:
        result: With its runs.
        compared: Measures whose ratios are of interest.
        reference: The contestant that the loss is compared with; None compares none.
    """
    pairs = list(result.pairs())
    ordered = sorted(dict.fromkeys(who for _, who in pairs), key=_first_seen(result))
    first = ordered[0] if ordered else ""
    judging = {name: one.get("judges") for name, one in result.settings.get("cases", {}).items()}
    found = {
        "medians": [_median(result, *pair) for pair in pairs],
        "ratios": [
            ratio
            for case in dict.fromkeys(case for case, _ in pairs if not judging.get(case))
            for other in ordered[1:]
            for measure in compared
            if (ratio := ratio_of(result, case, first, other, measure)) is not None
        ],
        "quality": [
            quality
            for case, who in pairs
            if reference is not None and who != reference and not judging.get(case)
            for quality in [quality_of(result, case, who, reference)]
            if quality is not None
        ],
        "reference": reference,
    }
    return result.model_copy(update=found)


def _first_seen(result: Result) -> Any:
    """Order contestants as the set names them: as they took their turns in the first round."""
    order = result.settings.get("contestants", [])
    return lambda who: order.index(who) if who in order else len(order)


def _median(result: Result, case: str, contestant: str) -> Median:
    turns = result.turns(case, contestant).values()
    names = dict.fromkeys(name for one in turns for name in one.measures)
    values = {name: [value for one in turns if (value := one.measures.get(name)) is not None] for name in names}
    measures = {name: statistics.median(held) if held else None for name, held in values.items()}
    return Median(case=case, contestant=contestant, runs=len(turns), measures=measures)


def ratio_of(result: Result, case: str, contestant: str, against: str, measure: str) -> Ratio | None:
    """Return a contestant's measure over another's by rounds that both finished; None where there is none."""
    mine, theirs = result.turns(case, contestant), result.turns(case, against)
    found = []
    for number in mine.keys() & theirs.keys():
        one, other = mine[number].measures.get(measure), theirs[number].measures.get(measure)
        if one is not None and other:
            found.append(one / other)
    if not found:
        return None
    low, median, high = (round(one, 4) for one in (min(found), statistics.median(found), max(found)))
    return Ratio(
        case=case,
        contestant=contestant,
        against=against,
        measure=measure,
        rounds=len(found),
        median=median,
        low=low,
        high=high,
    )


def quality_of(result: Result, case: str, contestant: str, reference: str) -> Quality | None:
    """Return how a contestant's loss is beside the reference's; None where either has none."""
    cases = result.settings.get("cases", {})
    where = next((name for name, one in cases.items() if one.get("judges") == case), case)
    measure = "curve_loss" if cases.get(where, {}).get("same_batches") else "held_out_loss"
    losses = []
    for who in (contestant, reference):
        values = [value for one in result.turns(where, who).values() if (value := _loss(one, measure)) is not None]
        if not values:
            return None
        losses.append(statistics.median(values))
    mine, theirs = losses
    difference = mine / theirs - 1
    return Quality(
        case=case,
        contestant=contestant,
        against=reference,
        measure=measure,
        loss=round(mine, 5),
        reference_loss=round(theirs, 5),
        difference=round(difference, 5),
        equal=difference <= EQUAL,
    )


def _loss(run: Run, measure: str) -> float | None:
    if measure == "curve_loss":
        losses = run.detail.get("losses") or []
        return statistics.mean(losses) if losses else None
    value = run.measures.get(measure)
    return None if value is None else float(value)


def write_result(result: Result, folder: Path) -> None:
    """Write a result's JSON and, beside it, its runs as CSV; both in one piece."""
    write_json(folder / RESULT, result.model_dump(mode="json"))
    write_text(folder / TABLE, table_of(result))


def table_of(result: Result) -> str:
    """Return the runs as CSV, a line for each."""
    names = list(dict.fromkeys(name for one in result.runs for name in one.measures))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "contestant", "round", "status", "reason", *names])
    for one in result.runs:
        values = [one.measures.get(name) for name in names]
        writer.writerow([one.case, one.contestant, one.round, one.status, one.reason or "", *values])
    return text.getvalue()


def read_result(path: Path) -> Result:
    """Read a result: a folder that `peftkit bench` wrote, or a JSON file.

    Raises:
        DataError: There is none, or it is not a benchmark's.
    """
    file = path / RESULT if path.is_dir() else path
    try:
        return Result.model_validate_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"'{file}' cannot be read: {error.strerror}; give a result's file or folder") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "its content"
        raise DataError(f"'{file}' is no benchmark's result: {place}: {first['msg']}") from error


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a result's file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Result.model_json_schema()}


def schema_text() -> str:
    """Return the schema as its file holds it."""
    return json.dumps(schema(), indent=2) + "\n"
