"""When a training is saved, and what happens when it cannot be."""

import errno
import os
from types import SimpleNamespace

import pytest

from peftkit import stopping
from peftkit.checkpoint.folders import Checkpoints
from peftkit.checkpoint.room import checkpoint_size, require_room
from peftkit.config import TrainConfig
from peftkit.errors import CheckpointError, ConfigError, OutputError
from peftkit.stopping import Stop
from peftkit.train import saving as module
from peftkit.train.optimizers import OPTIMIZERS
from peftkit.train.saving import Saving

from .families import Run, configuration
from .test_optimizers import configured


class Clock:
    """Takes the place of the system's; a step and a save move it.

    Only for the modules that are tested: other threads of this process, such as a server's, sleep by the system's.
    """

    def __init__(self, monkeypatch):
        self.now = 1000.0
        for one in (module, stopping):
            monkeypatch.setattr(one, "time", SimpleNamespace(monotonic=lambda: self.now))


class Slow(Checkpoints):
    """Takes so many seconds of a clock for a save, and may fail."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds
        self.fails = False
        self.steps = []

    newest_step = 7

    def save(self, step, fill):
        self.clock.now += self.seconds
        if self.fails:
            raise OutputError("the disk is full")
        self.steps.append(step)
        return None


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def saved_steps(clock, seconds_of_save, steps=400, seconds_of_step=5.0, **settings):
    slow = Slow(clock, seconds_of_save)
    saving = Saving(slow, TrainConfig(**settings))
    saving.begin()
    for step in range(1, steps + 1):
        clock.now += seconds_of_step
        if saving.is_due():
            saving.save(step, None)
        saving.step_begins()
    return slow.steps, saving.seconds


def test_by_default_a_training_is_saved_every_two_minutes(clock):
    steps, _ = saved_steps(clock, 0.5)
    assert steps[:3] == [24, 48, 72]


@pytest.mark.parametrize("seconds_of_save", [0.1, 1, 10, 60])
def test_saves_by_the_clock_never_take_more_than_a_fiftieth(seconds_of_save, clock):
    began = clock.now
    steps, seconds = saved_steps(clock, seconds_of_save, 2000)
    assert len(steps) >= 3
    assert seconds / (clock.now - began - seconds) < 0.02 + seconds_of_save / 10_000


def test_steps_or_epochs_alone(clock):
    assert saved_steps(clock, 0.5, save_steps=50)[0] == []  # transformers counts them
    assert saved_steps(clock, 0.5, save_minutes=0)[0] == []


def test_a_limit_leaves_time_for_one_more_step_and_two_saves(clock):
    stop = Stop(100)
    saving = Saving(Slow(clock, 4), TrainConfig(), stop=stop)
    saving.begin()
    saving.save(0, None)
    stopped_at = None
    for step in range(1, 30):
        saving.step_begins()
        clock.now += 10
        if saving.is_due():
            stopped_at = step
            break
    assert stopped_at == 8  # 100 - 4 - 80 = 16 < 1.5 * 10 + 2 * 4 + 2
    assert stop.asked


def test_three_failed_saves_are_warnings_and_a_good_one_starts_the_count_anew(clock):
    said = []
    slow = Slow(clock, 1)
    saving = Saving(slow, TrainConfig(), warn=said.append)
    slow.fails = True
    for _ in range(2):
        for step in (1, 2, 3):
            assert saving.save(step, None) is None
        slow.fails = False
        saving.save(4, None)
        slow.fails = True
    assert len(said) == 6
    assert "the training goes on, and the newest checkpoint is that of step 7" in said[0]
    for step in (1, 2, 3):
        saving.save(step, None)
    with pytest.raises(OutputError, match="4 saves failed, and the newest checkpoint is that of step 7; make room"):
        saving.save(4, None)


def test_a_save_that_failed_is_tried_again_after_a_minute(clock):
    slow = Slow(clock, 0)
    saving = Saving(slow, TrainConfig())
    saving.begin()
    clock.now += 120
    assert saving.is_due()
    slow.fails = True
    saving.save(1, None)
    clock.now += 59
    assert not saving.is_due()
    clock.now += 1
    assert saving.is_due()


def test_training_goes_on_while_the_disk_is_full_and_saves_when_there_is_room(tmp_path, monkeypatch):
    original, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if 8 < len(calls) < 12:  # within the saves of steps 1 to 3
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(handle)

    run = Run(tmp_path, "causal", configuration("causal", max_steps=6, save_steps=1))
    said = []
    run.trainer.saving._warn = said.append
    monkeypatch.setattr(os, "fsync", full)
    run.trainer.train()
    monkeypatch.undo()
    assert len(said) == 3
    assert all("No space left on device" in one for one in said)
    names = sorted(folder.name for folder in (tmp_path / "checkpoints").iterdir())
    assert names == ["checkpoint-5", "checkpoint-6"]


def test_weights_that_do_not_fit_are_refused(tmp_path):
    run = Run(tmp_path / "a", "causal", configuration("causal", max_steps=2, save_steps=1))
    run.trainer.train()
    start = str(tmp_path / "a" / "checkpoints" / "checkpoint-2")
    other = Run(tmp_path / "b", "causal", configuration("causal", max_steps=4, adapter={"r": 8}))
    with pytest.raises(CheckpointError, match=r"does not fit the adapter: '.*lora_.*' has another shape or dtype"):
        other.trainer.train(resume_from_checkpoint=start)
    fewer = Run(tmp_path / "c", "causal", configuration("causal", adapter={"target_modules": "q_proj"}))
    with pytest.raises(CheckpointError, match=r"does not fit the adapter: '.*' stands in one of them only"):
        fewer.trainer.train(resume_from_checkpoint=start)
    lion = Run(tmp_path / "d", "causal", configuration("causal", max_steps=4, optim="lion"))
    with pytest.raises(CheckpointError, match="the state is that of AdamW, and the optimizer is Lion"):
        lion.trainer.train(resume_from_checkpoint=start)
    mine = Run(tmp_path / "e", "causal", configuration("causal", max_steps=4))
    mine.trainer.saving = Saving(Checkpoints(tmp_path / "e", 2), TrainConfig(), identity="mine")
    with pytest.raises(CheckpointError, match="is a checkpoint of another run"):
        mine.trainer.train(resume_from_checkpoint=start)


@pytest.mark.parametrize("part", ["weights", "optimizer", "scheduler", "random", "epoch_random", "loop"])
def test_a_missing_part_is_an_error_and_never_a_fresh_start(part, tmp_path):
    import json

    run = Run(tmp_path / "a", "causal", configuration("causal", max_steps=2, save_steps=1))
    run.trainer.train()
    start = tmp_path / "a" / "checkpoints" / "checkpoint-2"
    values = json.loads((start / "state.json").read_text())
    del values[part]
    (start / "state.json").write_text(json.dumps(values))
    other = Run(tmp_path / "b", "causal", configuration("causal", max_steps=4))
    with pytest.raises(CheckpointError, match=f"the checkpoint lacks '{part}', which a run needs to go on"):
        other.trainer.train(resume_from_checkpoint=str(start))


def test_what_an_optimizer_keeps_and_cannot_be_saved_is_named(tmp_path):
    run = Run(tmp_path, "causal", configuration("causal", max_steps=3))

    original = run.trainer.create_optimizer

    def create(*args, **kwargs):
        optimizer = original(*args, **kwargs)
        optimizer.param_groups[0]["history"] = {1, 2}
        return optimizer

    run.trainer.create_optimizer = create
    with pytest.raises(ConfigError, match=r"train\.optim: AdamW keeps 'history' of type set, which cannot be saved"):
        run.trainer.train()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_size_of_a_checkpoint_is_known_before(name, tmp_path):
    run = Run(tmp_path, "causal", configured(name, max_steps=1, adapter={"r": 256}))
    forecast = checkpoint_size(run.model, run.trainer.config.train)
    run.trainer.train()
    last = tmp_path / "checkpoints" / "checkpoint-1"
    written = sum(file.stat().st_size for file in last.iterdir())
    assert forecast == pytest.approx(written, rel=0.1)


def test_a_disk_without_room_is_refused_at_the_start(tmp_path):
    with pytest.raises(OutputError, match=r"needs .* GB for 3 checkpoints of .* GB and the adapter, and the disk has"):
        require_room(tmp_path, 10**18, 2)
    require_room(tmp_path, 1000, 2)
