"""A checkpoint is whole or not there; one that is damaged is found, set aside, and never deleted."""

import errno
import os
import random
import shutil
import sys
from pathlib import Path

import pytest
import torch

from peftkit.checkpoint import folders
from peftkit.checkpoint.folders import MANIFEST, Checkpoints, damage
from peftkit.checkpoint.tensor_file import write_tensors
from peftkit.errors import OutputError


def fill(step):
    def write(folder):
        (folder / "state.json").write_text(f'{{"step": {step}}}')
        return {"state.safetensors": write_tensors(folder / "state.safetensors", {"a": torch.arange(64.0) + step})}

    return write


@pytest.fixture
def kept(tmp_path):
    """Three checkpoints of which all are kept."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", 3)
    for step in (3, 6, 9):
        checkpoints.save(step, fill(step))
    return checkpoints


def everything(folder):
    return {file.relative_to(folder): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def opened(folder):
    """Open the checkpoints of a folder; return the newest one's name and what was reported."""
    said = []
    newest = Checkpoints(folder, 3).open(said.append)
    return newest and newest.name, said


def test_two_at_least_are_kept_and_numbers_are_no_names(tmp_path):
    checkpoints = Checkpoints(tmp_path, 1)
    for step in (9, 10, 100):
        checkpoints.save(step, fill(step))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-100"]
    assert opened(tmp_path) == ("checkpoint-100", [])
    assert opened(tmp_path / "none") == (None, [])


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def to_folder(path):
    path.unlink()
    path.mkdir()


def to_link(path):
    shutil.copy(path, path.parent.parent / path.name)
    path.unlink()
    path.symlink_to(path.parent.parent / path.name)


def from_another(path):
    shutil.copy(path.parent.parent / "checkpoint-6" / path.name, path)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "half": cut,
    "one byte less": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "one byte more": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "a changed bit": change,
    "gone": lambda path: path.unlink(),
    "a folder": to_folder,
    "a link": to_link,
    "another checkpoint's": from_another,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", ["state.json", "state.safetensors", MANIFEST])
def test_damage_is_found_and_the_older_one_is_used(name, how, kept):
    DAMAGE[how](kept.path(9) / name)
    newest, said = opened(kept.folder)
    assert newest == "checkpoint-6"
    assert len(said) == 1
    assert name in said[0]
    assert said[0].endswith("it was set aside as 'checkpoint-9.damaged'")
    assert sorted(one.name for one in kept.folder.iterdir() if one.is_dir()) == [
        "checkpoint-3",
        "checkpoint-6",
        "checkpoint-9.damaged",
    ]


def test_swapped_folders_are_found(kept):
    kept.path(9).rename(kept.folder / "other")
    kept.path(6).rename(kept.path(9))
    (kept.folder / "other").rename(kept.path(6))
    newest, said = opened(kept.folder)
    assert newest == "checkpoint-3"
    assert len(said) == 2


def test_a_second_damaged_one_of_a_step_gets_a_name_of_its_own(kept):
    for _ in range(2):
        cut(kept.path(9) / "state.json")
        opened(kept.folder)
        Checkpoints(kept.folder, 9).save(9, fill(9))
    assert {"checkpoint-9", "checkpoint-9.damaged", "checkpoint-9.damaged-2"} <= {
        one.name for one in kept.folder.iterdir()
    }


def test_flipped_bits_are_found(kept):
    drawn = random.Random(0)
    files = sorted(kept.path(9).iterdir())
    whole = {file: file.read_bytes() for file in files}
    for number in range(500):
        file = files[number % len(files)]
        data = bytearray(whole[file])
        place = drawn.randrange(8 * len(data))
        data[place // 8] ^= 1 << place % 8
        file.write_bytes(data)
        assert damage(kept.path(9)), (file.name, place)
        file.write_bytes(whole[file])
    assert damage(kept.path(9)) is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("call", range(1, 6))
def test_a_disk_that_refuses_leaves_the_older_ones(call, number, kept, monkeypatch):
    before = everything(kept.folder)
    calls = 0
    original = os.fsync

    def refuse(handle):
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(number, os.strerror(number))
        original(handle)

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match=os.strerror(number)):
        kept.save(12, fill(12))
    monkeypatch.undo()
    if call < 5:
        assert everything(kept.folder) == before
    else:  # the new one has its name already, and only that name may not be on the disk
        assert before.items() <= everything(kept.folder).items()
        assert damage(kept.path(12)) is None
    assert not list(kept.folder.glob(".*"))
    kept.save(12, fill(12))
    assert opened(kept.folder)[0] == "checkpoint-12"


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
@pytest.mark.parametrize("size", range(0, 400, 20))
def test_a_file_that_cannot_grow_any_more_leaves_the_older_ones(size, kept, monkeypatch):
    """As a full disk does at that byte of a file."""
    import resource
    import signal

    before = everything(kept.folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        with pytest.raises(OutputError, match="cannot be written: File too large"):
            kept.save(12, fill(12))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert everything(kept.folder) == before
    kept.save(12, fill(12))
    assert opened(kept.folder) == ("checkpoint-12", [])


def test_what_reads_back_otherwise_counts_as_not_saved(kept, monkeypatch):
    original = folders.sync_folder

    def spoil(folder):
        original(folder)
        if (folder / "checkpoint-12").exists():
            change(folder / "checkpoint-12" / "state.safetensors")

    monkeypatch.setattr(folders, "sync_folder", spoil)
    with pytest.raises(OutputError, match=r"cannot be read as it was written: state.safetensors"):
        kept.save(12, fill(12))
    assert opened(kept.folder) == ("checkpoint-9", [])
    assert {kept.path(step).exists() for step in (3, 6, 9)} == {True}


def test_the_manifest_and_the_folder_reach_the_disk_before_the_name(kept, monkeypatch):
    order = []
    original = os.fsync

    def noting(handle):
        order.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        original(handle)

    monkeypatch.setattr(os, "fsync", noting)
    rename = type(kept.folder).rename
    monkeypatch.setattr(type(kept.folder), "rename", lambda self, new: (order.append("rename"), rename(self, new))[1])
    kept.save(12, fill(12))
    staging = f".checkpoint-12.tmp-{os.getpid()}"
    assert order[:6] == ["state.json", "state.safetensors", MANIFEST, staging, "rename", "checkpoints"]


def test_what_a_killed_process_left_goes_at_the_next_start(kept):
    for name in (".checkpoint-12.tmp-1", ".checkpoint-3.old-1"):
        (kept.folder / name).mkdir()
        (kept.folder / name / "state.json").write_text("{")
    assert opened(kept.folder) == ("checkpoint-9", [])
    assert not list(kept.folder.glob(".*"))
