"""Trainings on a disk that fills up for real, and on one that cannot be written."""

import sys

import pytest

from peftkit.checkpoint.folders import Checkpoints
from peftkit.errors import OutputError
from peftkit.pipeline import run

from .proof_disk import Fills, trained

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts")


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
