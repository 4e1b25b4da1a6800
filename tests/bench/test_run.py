"""A set is run in processes, contestants in turn; what goes wrong is a row; what was measured is kept."""

import json
import sys
from pathlib import Path

import pytest

from peftkit import cli
from peftkit.bench.check import record
from peftkit.bench.experiment import load_set
from peftkit.bench.job import Job
from peftkit.bench.result import read_result
from peftkit.bench.run import limit_bytes, run_set, schedule
from peftkit.errors import ConfigError, OutputError
from peftkit.ui import UI

pytestmark = pytest.mark.xdist_group("bench")

SCRIPTS = {
    "frame": "from peftkit.bench.contestant import compete\n\ndef train(job, folder):\n    {}\n\ncompete(train)\n",
    "missing": "import a_library_that_is_not_here",
    "memory": "raise MemoryError('no room for 3 rows')",
    "wrong": "raise ValueError('the rank is odd\\nand more')",
}
TURN = """
import json, sys
measures = {"tokens_per_second": 5.0, "peak_allocated": 10**9, "step_p50": 1.0, "model_flops_per_second": 1.0,
            "hardware_flops_per_second": 1.0, "held_out_loss": 1000.0}
open(sys.argv[2], "w").write(json.dumps({"status": "ok", "reason": None, "measures": measures, "detail": {}}))
"""
SET = """
name: small
rounds: 2
reference: slow
contestants:
  peftkit:
  slow: {script: slow.py}
  missing: {script: missing.py}
  memory: {script: memory.py}
  wrong: {script: wrong.py}
  killed: {script: killed.py}
  broken: {script: broken.py}
lengths: {16: 3, 40: 1}
trained: 0.5
steps: 2
warmup_steps: 1
held_out_rows: 4
train.per_device_train_batch_size: 2
model.quantization: none
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model):
    """Holds the set, and its result after one round."""
    place = tmp_path_factory.mktemp("bench")
    for name in ("missing", "memory", "wrong"):
        (place / f"{name}.py").write_text(SCRIPTS["frame"].format(SCRIPTS[name]))
    (place / "slow.py").write_text(TURN)
    (place / "killed.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    (place / "broken.py").write_text("import sys\nsys.exit('nothing works')\n")
    (place / "set.yaml").write_text(f"{SET}model.path: {tiny_model}\n")
    run_set(load_set(place / "set.yaml"), ui=UI(quiet=True), command="here", rounds=1, limit="24GB", out=place / "out")
    return place


@pytest.fixture
def run(monkeypatch):
    """Run a command in this process, and return its exit code."""

    def called(*words):
        monkeypatch.setattr(sys, "argv", ["peftkit", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code or 0

    return called


def test_who_began_one_round_ends_the_next(folder):
    turns = list(schedule(load_set(folder / "set.yaml"), 2))
    names = ["peftkit", "slow", "missing", "memory", "wrong", "killed", "broken"]
    assert [name for _, name, _ in turns] == [*names, *reversed(names)]
    assert [number for _, _, number in turns] == [1] * 7 + [2] * 7


def test_what_goes_wrong_is_a_row_that_says_why(folder):
    rows = {one.contestant: (one.status, one.reason) for one in read_result(folder / "out").runs}
    assert rows == {
        "peftkit": ("ok", None),
        "slow": ("ok", None),
        "missing": ("missing", "ModuleNotFoundError: No module named 'a_library_that_is_not_here'"),
        "memory": ("out of memory", "MemoryError: no room for 3 rows"),
        "wrong": ("failed", "ValueError: the rank is odd"),
        "killed": ("out of memory", "the system killed it, as it does where main memory runs out"),
        "broken": ("failed", "it ended with code 1: nothing works"),
    }
    logs = {file.stem for file in (folder / "out" / "logs").iterdir()}
    assert logs == {f"small-{name}-1" for name in rows if rows[name][0] != "ok"}


def test_what_was_measured_is_complete(folder):
    found = read_result(folder / "out")
    own = next(one for one in found.runs if one.contestant == "peftkit")
    measures, detail = own.measures, own.detail
    assert measures["tokens_per_second"] > measures["trained_tokens_per_second"] > 0
    assert measures["step_p20"] <= measures["step_p50"] <= measures["step_p80"]
    assert 0 <= measures["padding_share"] < 1
    assert 0 < measures["peak_allocated"] <= measures["peak_whole"]
    assert measures["forecast_memory"] > 0
    assert measures["mfu"] == pytest.approx(measures["hfu"])  # nothing is computed again
    assert len(detail["losses"]) == len(detail["seconds"]) == 3
    assert 3 < measures["held_out_loss"] < 8  # random tokens of some 260: log 260 is 5.6
    assert detail["attn_implementation"] == "sdpa"
    assert found.limit == 24 << 30
    assert found.machine["kind"]
    assert found.peak_rate["flops"] > 0
    assert found.settings["cases"]["small"]["rows"]["longest"] == 40
    assert [one.contestant for one in found.quality] == ["peftkit"]


def test_a_second_call_measures_only_what_is_left_and_the_gate_stops_a_slow_peftkit(folder, run, capsys):
    """The baseline says that peftkit was twice as fast beside the other as it was."""
    lines = (folder / "out" / "runs.jsonl").read_text()
    out = ["--out", folder / "out", "--rounds", "1"]
    assert run("bench", "run", folder / "set.yaml", *out) == 6  # it was limited before
    state = json.loads((folder / "out" / "set.json").read_text())
    (folder / "out" / "set.json").write_text(json.dumps({**state, "limit": None}))
    found = read_result(folder / "out")
    faster = [one.model_copy(update={"median": 2 * one.median}) for one in found.ratios]
    record(found.model_copy(update={"ratios": faster}), folder / "set.baseline.json")
    capsys.readouterr()
    assert run("bench", "check", folder / "set.yaml", *out) == 15
    said = capsys.readouterr()
    assert "measured already" in said.out
    assert "speed of peftkit over slow, at least" in said.err
    assert (folder / "out" / "runs.jsonl").read_text() == lines


def test_results_are_shown_and_compared_by_commands(folder, run, capsys):
    page = folder / "shown.html"
    assert run("bench", "show", folder / "out", "--page", page) == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert run("bench", "show", folder / "out", "--page", page) == 6
    capsys.readouterr()
    assert run("bench", "compare", folder / "out", folder / "out" / "result.json", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["change"] for one in found["ratios"]} == {1.0}


def test_another_set_is_not_mixed_into_a_folder(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "set.json").write_text(json.dumps({"set": "another"}))
    (tmp_path / "small.yaml").write_text("lengths: 8\nsteps: 1\nshapes: smollm2-135m\nlayers: 1\n")
    with pytest.raises(OutputError, match="another set of experiments"):
        run_set(load_set(tmp_path / "small.yaml"), ui=UI(quiet=True), command="", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="no such contestant"):
        run_set(load_set(tmp_path / "small.yaml"), ui=UI(quiet=True), command="", packages={"x": Path()})


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24 << 30), ("24", 24 << 30), ("1.5 GiB", 3 << 29), ("512M", 1 << 29)]
)
def test_a_limit_is_a_size(text, size):
    assert limit_bytes(text) == size
    assert limit_bytes(None) is None


@pytest.mark.parametrize("text", ["", "0", "-1GB", "24TB", "GB", "1e3"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigError, match="a size is expected"):
        limit_bytes(text)


def test_a_job_is_read_as_it_was_written(tmp_path):
    values = dict.fromkeys(Job.__annotations__, 1) | {"target_modules": ("q_proj", "v_proj"), "input_ids": [[1, 2]]}
    job = Job(**values)
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job
    assert job.targets == ["q_proj", "v_proj"]
