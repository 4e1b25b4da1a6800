"""Results: medians, ratios within rounds, losses beside speed, and the one form of all files."""

import csv
import io
import json
from pathlib import Path

import jsonschema
import pytest

from peftkit.bench.result import SCHEMA, Run, read_result, schema_text, table_of, write_result
from peftkit.errors import DataError

from .results import result, three_rounds, turn

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
STORED = sorted(
    file for file in RESULTS.rglob("*.json") if json.loads(file.read_text()).get("format") == "peftkit-bench-1"
)


def test_the_stored_schema_is_that_of_the_code():
    """`PEFTKIT_RECORD=1` writes it anew."""
    import os

    if os.environ.get("PEFTKIT_RECORD"):
        SCHEMA.write_text(schema_text(), encoding="utf-8")
    assert SCHEMA.read_text(encoding="utf-8") == schema_text()


@pytest.mark.parametrize("file", STORED, ids=lambda file: file.relative_to(RESULTS).as_posix())
def test_every_stored_result_follows_the_schema(file):
    content = json.loads(file.read_text(encoding="utf-8"))
    jsonschema.validate(content, json.loads(SCHEMA.read_text(encoding="utf-8")))
    found = read_result(file)
    assert found.runs
    table = file.with_name("runs.csv")
    assert table.read_text(encoding="utf-8") == table_of(found)


def test_the_results_of_the_project_are_among_them():
    assert {"cpu"} <= {file.parent.name for file in STORED}


def test_ratios_are_taken_round_by_round():
    """The machine halved its pace, and the ratio is the same in each round."""
    found = three_rounds(speed=2.0)
    speed, memory = found.ratios
    assert (speed.measure, speed.median, speed.low, speed.high, speed.rounds) == ("tokens_per_second", 2, 2, 2, 3)
    assert (memory.contestant, memory.against, memory.median) == ("peftkit", "TRL", 0.8)
    assert [(one.contestant, one.measures["tokens_per_second"]) for one in found.medians] == [
        ("peftkit", 160.0),
        ("TRL", 80.0),
    ]


def test_a_round_that_one_did_not_finish_gives_no_ratio():
    runs = [turn("a", "peftkit", 1, 10.0), turn("a", "TRL", 1, 5.0), turn("a", "TRL", 2, 1.0)]
    runs.append(Run(case="a", contestant="peftkit", round=2, status="out of memory", reason="OutOfMemoryError: full"))
    found = result(runs)
    assert [(one.median, one.rounds) for one in found.ratios if one.measure == "tokens_per_second"] == [(2.0, 1)]
    none = result([turn("a", "peftkit", 1, 10.0), Run(case="a", contestant="TRL", round=1, status="missing")])
    assert (none.ratios, none.quality) == ([], [])


@pytest.mark.parametrize(("loss", "equal"), [(1.0, True), (1.0099, True), (1.0101, False), (0.5, True)])
def test_a_loss_counts_as_equal_up_to_one_percent_above_the_reference(loss, equal):
    (quality,) = three_rounds(loss=loss).quality
    assert (quality.measure, quality.contestant, quality.against) == ("held_out_loss", "peftkit", "TRL")
    assert quality.equal is equal
    assert quality.difference == pytest.approx(loss - 1)


def test_losses_on_the_same_batches_judge_the_experiment_that_they_were_made_for():
    runs = [turn("a", "peftkit", 1, 10.0, loss=9.0), turn("a", "TRL", 1, 5.0)]
    runs += [turn("b", "peftkit", 1, 1.0, losses=[3.0, 1.0]), turn("b", "TRL", 1, 1.0, losses=[2.9, 1.1])]
    found = result(runs, cases={"a": {}, "b": {"same_batches": True, "judges": "a"}})
    assert [(one.case, one.measure, one.loss, one.equal) for one in found.quality] == [("a", "curve_loss", 2.0, True)]
    assert {one.case for one in found.ratios} == {"a"}


def test_a_result_is_written_and_read_again(tmp_path):
    found = three_rounds()
    write_result(found, tmp_path)
    assert read_result(tmp_path) == read_result(tmp_path / "result.json") == found
    rows = list(csv.DictReader(io.StringIO((tmp_path / "runs.csv").read_text())))
    assert [(row["contestant"], row["round"], float(row["tokens_per_second"])) for row in rows[:2]] == [
        ("peftkit", "1", 200.0),
        ("TRL", "1", 100.0),
    ]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": "peftkit-bench-2"}'])
def test_what_is_no_result_is_refused(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(DataError, match="is no benchmark's result"):
        read_result(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_result(tmp_path / "absent")
