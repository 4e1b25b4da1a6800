"""A run that runs out of memory goes on, or says what would help; one that is killed meanwhile ends the same."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
import transformers

from peftkit import judge, stages
from peftkit.adapter.passport import read_passport
from peftkit.errors import DoesNotFitError
from peftkit.memory import first
from peftkit.memory.retries import Retries
from peftkit.pipeline import run
from peftkit.rundir import read_json
from peftkit.train.shrinking import ShrinkingTrainer
from peftkit.train.surviving import look_at_worst_batch
from peftkit.ui import UI

from ..train.families import Run, configuration, examples
from .children import adapter_of, assert_same, at_step, in_a_child, kill

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks and limits of memory")


class Said(UI):
    """Keeps its warnings."""

    def __init__(self):
        super().__init__(quiet=True)
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


def gone():
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def fails_at(step, fitting, monkeypatch=None):
    """Let training run out of memory at a step, while a batch has more rows than fit."""
    original = ShrinkingTrainer.training_step

    def training_step(self, model, inputs, count=None):
        if self.state.global_step == step - 1 and not self._looks and len(inputs["input_ids"]) > fitting:
            raise gone()
        return original(self, model, inputs, count)

    if monkeypatch is None:
        ShrinkingTrainer.training_step = training_step
    else:
        monkeypatch.setattr(ShrinkingTrainer, "training_step", training_step)


@pytest.fixture(scope="module")
def retried(alone, tmp_path_factory):
    """A run whose training ran out of memory at its sixth step, and which nothing else happened to."""
    out = tmp_path_factory.mktemp("retried") / "run"
    assert in_a_child(["run", "sentiment", *alone[0], "--out", out], lambda: fails_at(6, 2)) == 0
    return out


def test_a_run_goes_on_with_smaller_batches_and_says_so(alone, retried):
    undisturbed = alone[1]
    config, lines = read_json(undisturbed / "summary.json"), (retried / "metrics.jsonl").read_text().splitlines()
    event = {"where": "forward", "step": 5, "rows": 2, "passes": 2, "said": str(gone())}
    assert read_json(retried / "summary.json")["memory_retries"] == [event]
    assert config["memory_retries"] == []
    marked = [line for line in map(json.loads, lines) if "out_of_memory" in line]
    assert [(line["step"], line["out_of_memory"]) for line in marked] == [(6, [event])]
    assert "2 rows at once, 2 passes to a step (CUDA out of memory" in (retried / "report.html").read_text()
    used = read_passport(retried / "adapter").config.train
    assert (used.per_device_train_batch_size, used.gradient_accumulation_steps) == (2, 2)
    assert "per_device_train_batch_size: 4" in (retried / "config.yaml").read_text()
    was = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    for mine, its in zip(map(json.loads, lines), was, strict=True):
        assert mine["learning_rate"] == its["learning_rate"]
        assert mine["tokens"] == its["tokens"]


@pytest.mark.parametrize("step", [6, 8, *(pytest.param(one, marks=pytest.mark.slow) for one in (5, 11))])
def test_one_that_is_killed_after_it_ran_out_of_memory_ends_the_same(step, alone, retried, tmp_path):
    def prepare():
        fails_at(6, 2)
        at_step(step, kill)

    out = tmp_path / "run"
    assert in_a_child(["run", "sentiment", *alone[0], "--out", out], prepare) == -9
    assert in_a_child(["resume", out], lambda: fails_at(6, 2)) == 0
    assert_same(out, retried)


def test_judging_goes_on_with_fewer_rows_and_training_is_as_it_was(alone, tmp_path, monkeypatch):
    words = [*alone[0], "evaluate.max_rows=12", "evaluate.batch_size=3"]
    wanted = run("sentiment", words=words, out=tmp_path / "wanted").folder
    original = stages._judge_rows

    def judging(model, family, encoder, examples, config, ui, what):
        found = original(model, family, encoder, examples, config, ui, what)
        if config.evaluate.batch_size > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")
        return found

    monkeypatch.setattr(stages, "_judge_rows", judging)
    ui = Said()
    words = [*alone[0], "evaluate.max_rows=12", "evaluate.batch_size=32"]
    found = run("sentiment", words=words, out=tmp_path / "found", ui=ui)
    assert (found.folder / "predictions.jsonl").read_bytes() == (wanted / "predictions.jsonl").read_bytes()
    weights = "adapter_model.safetensors"
    assert adapter_of(found.folder)[weights] == adapter_of(wanted)[weights] == adapter_of(alone[1])[weights]
    assert [one["judged"] for one in found.summary["memory_retries"]] == [6, 3]  # of the base; the adapter begins there
    assert "rows are judged again, 6 at once (retry 1 of 4)" in ui.warnings[0]
    assert read_passport(found.adapter).config.evaluate.batch_size == 3
    told = Said()
    judge.evaluate_run(found.folder, max_rows=8, ui=told)
    assert [one.split("; ")[-1] for one in told.warnings] == [
        f"rows are judged again, {rows} at once (retry {number} of 4)"
        for _ in ("base", "adapted")
        for number, rows in ((1, 4), (2, 2))
    ]


def test_rows_that_do_not_fit_one_by_one_end_with_advice(alone, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "_judge_rows", lambda *arguments: (_ for _ in ()).throw(gone()))
    with pytest.raises(DoesNotFitError, match=r"1 row was judged at once after 2 retries: CUDA out of memory.*; "):
        run("sentiment", words=alone[0], out=tmp_path / "run")


def test_a_training_that_does_not_fit_at_all_ends_with_the_advice_of_plan(alone, tmp_path):
    out = tmp_path / "run"

    def prepare():
        sys.stderr = (tmp_path / "err").open("w", buffering=1)
        fails_at(4, 0)

    assert in_a_child(["run", "sentiment", *alone[0], "--out", out], prepare) == DoesNotFitError.exit_code == 11
    said = " ".join((tmp_path / "err").read_text().split())
    assert "with 1 row at once after 2 retries: CUDA out of memory" in said
    assert "start a new run with " in said
    assert "(saves " in said
    assert (out / "checkpoints" / "checkpoint-3").is_dir()


def test_a_model_that_finds_no_memory_is_loaded_once_more(alone, tmp_path, monkeypatch):
    kind = transformers.AutoModelForCausalLM
    original, calls = kind.from_pretrained, []

    def loading(*arguments, **named):
        calls.append(os.environ.get("HF_DEACTIVATE_ASYNC_LOAD"))
        if len(calls) % 2:
            raise gone()
        return original(*arguments, **named)

    monkeypatch.setattr(kind, "from_pretrained", loading)
    ui = Said()
    found = run("sentiment", words=alone[0], out=tmp_path / "run", ui=ui)
    assert calls == [None, "1"]
    assert "HF_DEACTIVATE_ASYNC_LOAD" not in os.environ
    assert ui.warnings == [f"memory ran out (model load): {gone()}; it is tried once more"]
    assert adapter_of(found.folder) == adapter_of(alone[1])
    monkeypatch.setattr(kind, "from_pretrained", lambda *arguments, **named: (_ for _ in ()).throw(gone()))
    with pytest.raises(DoesNotFitError, match=r"do not fit: memory ran out twice \(model load\): CUDA out of"):
        run("sentiment", words=alone[0], out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_adapter_that_finds_no_memory_is_saved_once_more(alone, tmp_path, monkeypatch):
    from peftkit.adapter import attach

    original, calls = attach.save_adapter, []

    def save(model, folder):
        calls.append(folder)
        if len(calls) == 1:
            raise MemoryError
        original(model, folder)

    monkeypatch.setattr(attach, "save_adapter", save)
    found = run("sentiment", words=alone[0], out=tmp_path / "run")
    assert len(calls) == 2
    assert adapter_of(found.folder) == adapter_of(alone[1])
    assert [one["where"] for one in found.summary["memory_retries"]] == ["save"]


def test_a_run_whose_worst_batches_pass_first_ends_the_same(alone, tmp_path, monkeypatch):
    words = [*alone[0], "evaluate.batch_size=1", "data.train_rows=80", "train.max_steps=0"]
    looked = []
    original = ShrinkingTrainer._pass_worst_batch
    monkeypatch.setattr(
        ShrinkingTrainer, "_pass_worst_batch", lambda self, model: (looked.append("train"), original(self, model))
    )
    judging = first.judge_rows
    monkeypatch.setattr(first, "judge_rows", lambda *arguments: (looked.append("judge"), judging(*arguments))[1])
    found = run("sentiment", words=words, out=tmp_path / "with").folder
    assert looked == ["train", "judge"]
    without = run("sentiment", words=[*words, "train.worst_batch_first=false"], out=tmp_path / "without").folder
    assert looked == ["train", "judge"]
    weights = "adapter_model.safetensors"
    assert adapter_of(found)[weights] == adapter_of(without)[weights]
    assert (found / "predictions.jsonl").read_bytes() == (without / "predictions.jsonl").read_bytes()


def look_with_room_for(room, file):
    """Look at the worst batch of 256 rows with so many bytes more than are mapped now, and write the retries down."""
    config = configuration("causal", per_device_train_batch_size=256, max_steps=100)
    run = Run(file.parent, "causal", config, examples("causal", config, 256))
    run.trainer.host = None  # it would see the end coming
    retries = Retries()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + room, limits[1]))
    look_at_worst_batch(run.trainer, retries)
    resource.setrlimit(resource.RLIMIT_AS, limits)
    file.write_text(json.dumps(retries.events))


def test_a_real_end_of_memory_is_met_before_the_first_step(tmp_path):
    """torch's own allocator fails where 256 rows do not fit into what the process may map."""
    code = "import sys; from pathlib import Path; from tests.faults.test_memory import look_with_room_for as look; "
    command = [sys.executable, "-c", code + "look(10_000_000, Path(sys.argv[1]))", str(tmp_path / "retries.json")]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True)  # a fork would have this process's free heap
    retries = json.loads((tmp_path / "retries.json").read_text())
    assert 1 <= len(retries) <= 4
    assert {one["where"] for one in retries} == {"the longest rows"}
    assert all("allocate memory" in one["said"] or "MemoryError" in one["said"] for one in retries)
    assert retries[-1]["rows"] * retries[-1]["passes"] == 256
