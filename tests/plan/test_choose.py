"""`train.checkpoint_layers=auto`: as few layers are recomputed as fit, in a plan, in a run, and when it goes on."""

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from peftkit import pipeline
from peftkit.config import RunConfig
from peftkit.errors import ConfigError
from peftkit.kernels.install import Kernels
from peftkit.plan import before
from peftkit.plan.cards import GIB, Card, find_card
from peftkit.plan.choose import _needed, with_layers_chosen
from peftkit.plan.forecast import TIGHT, Subject
from peftkit.plan.shapes import known_settings
from peftkit.plan.workload import Workload
from peftkit.resolve import resolve
from peftkit.rundir import RunFolder

LAYERS = 22


def _subject(layers="auto"):
    config = RunConfig(
        recipe="completion",
        task={"kind": "completion"},
        model={"path": "TinyLlama/TinyLlama-1.1B-v1.0"},
        train={
            "max_length": 4096,
            "max_steps": 10,
            "per_device_train_batch_size": 1,
            "gradient_checkpointing": True,
            "checkpoint_layers": layers,
        },
    )
    settings = known_settings("TinyLlama/TinyLlama-1.1B-v1.0")
    return Subject(settings, config, "causal", Workload(4096, 4096, 4096.0, even=True, prompt=4096))


def _chosen(subject, gib):
    card = replace(find_card("RTX 4090"), memory=round(gib * GIB))
    return with_layers_chosen(subject, card).config.train.checkpoint_layers, card


def test_as_few_layers_as_fit_are_recomputed():
    subject = _subject()
    count, card = _chosen(subject, 8)
    assert 0 < count < LAYERS
    assert _needed(subject, card, count) <= (1 - TIGHT) * card.memory
    assert _needed(subject, card, count - 2) > (1 - TIGHT) * card.memory  # the line is a little on the safe side
    assert _chosen(subject, 80)[0] == 0
    assert _chosen(subject, 2)[0] == LAYERS


def test_a_number_stays_and_two_stacks_are_refused():
    for given in (None, 5):
        subject = _subject(given)
        assert with_layers_chosen(subject, find_card("RTX 4090")) is subject
    settings = known_settings("TinyLlama/TinyLlama-1.1B-v1.0")
    settings.is_encoder_decoder = True
    with pytest.raises(ConfigError, match="is for models with one stack of layers; give a number"):
        with_layers_chosen(replace(_subject(), settings=settings), find_card("RTX 4090"))


def test_a_plan_says_the_number(tmp_path):
    from peftkit.cli import app

    words = ["train.gradient_checkpointing=true", "train.checkpoint_layers=auto", "train.max_length=4096"]
    words += ["model.path=TinyLlama/TinyLlama-1.1B-v1.0", "train.per_device_train_batch_size=1"]
    file = tmp_path / "run.yaml"
    done = CliRunner().invoke(app, ["plan", "completion", *words, "--gpu", "80GB", "--apply", str(file)])
    assert done.exit_code == 0, done.output
    assert resolve(str(file)).config.train.checkpoint_layers != "auto"


AUTO = ["train.gradient_checkpointing=true", "train.checkpoint_layers=auto"]


def test_a_run_writes_the_number_down_and_goes_on_with_it(small, tmp_path, monkeypatch):
    taken = []
    made = Kernels.__init__

    def noted(self, model, config):
        if model.device.type != "meta":  # in the run itself, not in its forecast
            taken.append(config.train.checkpoint_layers)
        made(self, model, config)

    def stopped(self, *args):
        raise RuntimeError("stopped before its first step")

    monkeypatch.setattr(Kernels, "__init__", noted)
    monkeypatch.setattr(before, "require_fit", lambda *args: None)
    whole = before.this_machine()
    with monkeypatch.context() as inside:
        small_one = Card("a small one", 1, 10, 5, 1e11, bfloat16=False, context=0, workspace=0, kind="cpu")
        inside.setattr(before, "this_machine", lambda: small_one)
        inside.setattr(pipeline._Run, "train", stopped)
        with pytest.raises(RuntimeError, match="before its first step"):
            pipeline.run("sentiment", words=[*small, *AUTO], out=tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    said = resolve(str(folder.config)).config.train.checkpoint_layers
    assert isinstance(said, int)
    assert said > 0
    assert taken == [said]
    monkeypatch.setattr(before, "this_machine", lambda: whole)  # with room for all: what was chosen stays
    pipeline.run("sentiment", words=[*small, *AUTO], out=tmp_path / "run", resume=True)
    assert taken == [said, said]
    fresh = pipeline.run("sentiment", words=[*small, *AUTO], out=tmp_path / "fresh")
    assert resolve(str(fresh.folder / "config.yaml")).config.train.checkpoint_layers == 0
