"""Disks that fill up or refuse: the training goes on, older checkpoints are whole, and later saves succeed."""

import errno
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from peftkit.checkpoint.folders import damage
from peftkit.train.callbacks import MetricsCallback

from ..train.families import Run, configuration
from .disks import CannotMount, mounted
from .rows import Case
from .training import Ledger

LEFT = range(0, 60_000, 3_000)
"""Bytes that are left on the disk when a save begins; a checkpoint has more."""
REFUSALS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT)


def cases(full: bool) -> Iterator[Case]:
    """Give saves that end at each of twenty places, and each error at each call that brings a file to the disk."""
    for left in LEFT if full else LEFT[::5]:
        yield Case(f"{left} bytes are left", partial(a_disk_that_fills_up, left))
    for number in REFUSALS:
        for call in range(1, 7) if full else [3]:
            yield Case(f"{errno.errorcode[number]} at call {call}", partial(a_disk_that_refuses, number, call))


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


class Refuses(Ledger):
    """Lets the n-th call that brings something to the disk fail, in each save after a step, until another one."""

    def __init__(self, full_after, free_after, number, call):
        super().__init__()
        self.full_after, self.free_after, self.number, self.call = full_after, free_after, number, call
        self.original = os.fsync

    def on_step_end(self, args, state, control, **kwargs):
        self.put_back()
        calls = 0

        def refuse(handle):
            nonlocal calls
            calls += 1
            if calls == self.call:
                raise OSError(self.number, os.strerror(self.number))
            self.original(handle)

        if self.full_after <= state.global_step < self.free_after:
            os.fsync = refuse

    def put_back(self):
        os.fsync = self.original


def whole(folder):
    return sorted(int(one.name.split("-")[1]) for one in folder.glob("checkpoint-*") if damage(one) is None)


def trained(disk, fills, steps):
    said = []
    log = MetricsCallback(disk / "metrics.jsonl", warn=said.append)
    training = Run(disk, "causal", configuration("causal", max_steps=steps, save_steps=1), callbacks=[fills, log])
    fills.trainer = training.trainer
    training.trainer.saving._warn = said.append
    return training, said


def a_disk_that_fills_up(left: int, folder: Path) -> dict[str, int]:
    """Fill a file system of a megabyte before two saves, up to some bytes."""
    try:
        with mounted(folder / "disk") as mount:
            disk = mount("1m")
            training, said = trained(disk, Fills(disk, 3, 5, left), 6)
            training.trainer.train()
            goes_on(disk, said, errno.ENOSPC)
    except CannotMount:
        return {"tried": 0, "no file system can be mounted here": 1}
    return {"failed saves": 2}


def a_disk_that_refuses(number: int, call: int, folder: Path) -> dict[str, int]:
    """Let a call fail in two saves."""
    refuses = Refuses(3, 5, number, call)
    training, said = trained(folder, refuses, 6)
    try:
        training.trainer.train()
    finally:
        refuses.put_back()
    goes_on(folder, said, number)
    return {"failed saves": 2}


def goes_on(disk: Path, said: list[str], number: int) -> None:
    """See that all steps were taken, two saves failed with a warning each, and those after them are there."""
    assert [json.loads(line)["step"] for line in (disk / "metrics.jsonl").read_text().splitlines()] == [*range(1, 7)]
    said = [one for one in said if "metrics.jsonl" not in one]
    assert len(said) == 2, said
    for step, one in zip((3, 4), said, strict=True):
        assert one.startswith(f"step {step} was not saved: "), one
        assert os.strerror(number) in one
        assert one.endswith("the newest checkpoint is that of step 2")
    assert whole(disk / "checkpoints") == [5, 6]
    assert not list((disk / "checkpoints").glob(".*"))
