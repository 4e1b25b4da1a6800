"""Trainings on a disk that fills up for real, and on one that cannot be written."""

import json
import sys

import pytest

from peftkit.checkpoint.folders import Checkpoints, damage
from peftkit.errors import OutputError
from peftkit.pipeline import run
from peftkit.train.callbacks import MetricsCallback

from ..train.families import Run, configuration
from .training import Ledger

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts")


def whole(folder):
    return sorted(int(one.name.split("-")[1]) for one in folder.glob("checkpoint-*") if damage(one) is None)


class Fills(Ledger):
    """Fills the disk after a step, and makes room after another one."""

    def __init__(self, disk, full_after, free_after, left):
        super().__init__()
        self.disk, self.full_after, self.free_after, self.left = disk, full_after, free_after, left

    def on_step_end(self, args, state, control, **kwargs):
        filler = self.disk / "filler"
        if state.global_step == self.full_after:
            with filler.open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(1024)):
                        pass
                except OSError:
                    file.truncate(file.tell() - self.left)
        elif state.global_step == self.free_after:
            filler.unlink()


def trained(disk, fills, steps):
    said = []
    log = MetricsCallback(disk / "metrics.jsonl", warn=said.append)
    training = Run(disk, "causal", configuration("causal", max_steps=steps, save_steps=1), callbacks=[fills, log])
    fills.trainer = training.trainer
    training.trainer.saving._warn = said.append
    return training, said


@pytest.mark.parametrize("left", [0, 4_096, 12_288, 20_480, 32_768, 45_056])
def test_a_full_disk_is_a_warning_and_saves_go_on_when_there_is_room(left, small_disk):
    disk = small_disk("1m")
    training, said = trained(disk, Fills(disk, 3, 5, left), 6)
    training.trainer.train()
    assert [json.loads(line)["step"] for line in (disk / "metrics.jsonl").read_text().splitlines()] == [*range(1, 7)]
    said = [one for one in said if "metrics.jsonl" not in one]
    assert len(said) == 2
    for step, one in zip((3, 4), said, strict=True):
        assert one.startswith(f"step {step} was not saved: ")
        assert "No space left on device" in one
        assert one.endswith("the newest checkpoint is that of step 2")
    assert whole(disk / "checkpoints") == [5, 6]
    assert not list((disk / "checkpoints").glob(".*"))


def test_a_disk_that_stays_full_stops_the_training_at_the_fourth_save(small_disk):
    disk = small_disk("1m")
    training, said = trained(disk, Fills(disk, 3, 99, 0), 9)
    with pytest.raises(OutputError, match=r"4 saves failed, and the newest checkpoint is that of step 2; make room"):
        training.trainer.train()
    said = [one for one in said if "metrics.jsonl" not in one]
    assert len(said) == 3
    assert training.trainer.state.global_step == 6
    (disk / "filler").unlink()
    assert Checkpoints(disk / "checkpoints", 2).open(said.append) == disk / "checkpoints" / "checkpoint-2"
    assert len(said) == 3


def test_a_run_that_has_no_room_is_refused_before_it_asks_the_base_model(alone, small_disk):
    disk = small_disk("4m")
    with pytest.raises(
        OutputError, match=r"needs [\d.]+ MB for 3 checkpoints of [\d.]+ kB and the adapter, and the disk"
    ):
        run("sentiment", words=alone[0], out=disk / "run")
    assert not list(disk.iterdir())


def test_a_read_only_disk_is_refused(alone, small_disk):
    disk = small_disk("4m", "ro")
    with pytest.raises(OutputError, match="Read-only file system; give another with --out"):
        run("sentiment", words=alone[0], out=disk / "run")
