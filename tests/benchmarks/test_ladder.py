"""The ladder of memory in a short form: each lever brings what it is for, and a processor measures what was traced."""

import argparse
import itertools
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import ladder  # noqa: E402
import ladder_gpu  # noqa: E402

NAMES = [rung.name for rung in ladder.RUNGS]


@pytest.fixture(scope="module")
def rung():
    return dict(zip(NAMES, ladder.RUNGS, strict=True))


def test_each_rung_of_the_ladder_takes_less_at_8b_shapes_and_the_last_keeps_its_promise(rung):
    """At 16,384 tokens and five layers, in bytes for each token of the row."""
    steps = [one for one in ladder.RUNGS[1:] if not one.alone]
    peaks = [ladder.traced(one, 16384, layers=5).peak for one in steps]
    kib = [round(peak / 16384 / 1024) for peak in peaks]
    assert all(more >= less for more, less in itertools.pairwise(peaks)), kib
    assert peaks[-1] < 0.75 * peaks[2], kib  # than TRL as it is advised


def test_the_stored_ladder_reaches_the_bar_and_was_not_measured(rung):
    stored = json.loads((BENCHMARKS / "results" / "ladder-meta.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in stored["rungs"]] == NAMES
    assert stored["traced"] == "on the meta device; nothing was measured"
    last = next(one for one in reversed(stored["rungs"]) if not one["alone"])
    assert last["largest"] >= 105_000
    assert last["peak_at_largest"] <= stored["limit"]
    assert last["whole_trace_at_largest"] == pytest.approx(last["peak_at_largest"], rel=0.005)
    length = str(stored["lengths"][0])
    assert ladder.traced(rung[last["name"]], int(length)).peak == pytest.approx(last["peak"][length], rel=0.01)


def test_the_largest_length_is_found_where_memory_bends():
    def peak(length):
        return 1000 + 3 * length + max(0, 5 * (length - 5000))

    found = ladder.largest(30_000, {2048: peak(2048), 4096: peak(4096)}, peak)
    assert peak(found) <= 30_000 < peak(found + ladder.STEP)
    assert ladder.largest(8_000, {2048: peak(2048), 4096: peak(4096)}, peak) == 2304


@pytest.fixture
def script(monkeypatch, tmp_path):
    """The script in this process, with words of a command line; gives the file that it writes."""

    def run(*words):
        out = tmp_path / "rehearsal.json"
        monkeypatch.setattr(sys, "argv", ["ladder_gpu.py", "--rehearse", *words, "--out", str(out)])
        ladder_gpu.main()
        return out

    return run


def test_the_script_is_rehearsed_with_a_rung_in_a_process_of_its_own(script):
    (row,) = json.loads(script("--rungs", "1", "--steps", "2").read_text(encoding="utf-8"))["rungs"]
    assert row["name"] == ladder_gpu.FIRST[0]
    assert "note" not in row
    assert [*row["lengths"]] == ["64", "128"]


def test_the_rungs_that_matter_most_come_first_and_each_comes_once():
    names = [ladder_gpu.MEASURED[number].name for number in ladder_gpu.in_turn()]
    assert names[:4] == [*ladder_gpu.FIRST]
    assert sorted(names) == sorted(one.name for one in ladder_gpu.MEASURED)


def test_the_file_is_there_after_each_rung(script, tmp_path, monkeypatch):
    def measured(options):
        for number in range(3):
            written = json.loads(options.out.read_text(encoding="utf-8"))["rungs"] if options.out.exists() else []
            assert written == [{"name": str(earlier)} for earlier in range(number)]
            yield {"name": str(number)}

    monkeypatch.setattr(ladder_gpu, "measured", measured)
    assert len(json.loads(script().read_text(encoding="utf-8"))["rungs"]) == 3


def test_what_no_time_is_left_for_and_what_fails_are_rows(monkeypatch, tmp_path):
    killed = tmp_path / "killed.py"
    killed.write_text(
        """import sys; print('{"64": {"peak": 1}}\\n{"128": {"pe'); print("no luck", file=sys.stderr); sys.exit(2)"""
    )
    monkeypatch.setattr(ladder_gpu, "__file__", str(killed))
    (row,) = ladder_gpu.measured(argparse.Namespace(minutes=1, rungs=1))
    assert row["note"] == "it ended with code 2: no luck"
    assert row["lengths"] == {"64": {"peak": 1}}
    rows = [*ladder_gpu.measured(argparse.Namespace(minutes=0, rungs=None))]
    assert {one["note"] for one in rows} == {"no time was left"}
    assert {one["name"] for one in rows} == {one.name for one in ladder_gpu.MEASURED}


@pytest.mark.parametrize("number", [2, 3, 6, 11, 12, 14])
def test_a_processor_measures_what_was_traced(number, capsys):
    options = argparse.Namespace(rehearse=True, steps=2)
    ladder_gpu.measure_rung(ladder_gpu.MEASURED[number], options)
    rows = {}
    for line in capsys.readouterr().out.splitlines():
        rows |= json.loads(line)
    assert [*rows] == ["64", "128"]
    for row in rows.values():
        assert row["peak"] == pytest.approx(row["forecast"], rel=0.01)
        assert row["tokens_per_second"] > 0
