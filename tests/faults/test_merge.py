"""A merge that is killed, or that the disk refuses: nothing half done is visible, and a second call finishes it."""

import errno
import hashlib
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from peftkit.errors import OutputError
from peftkit.merge import stream
from peftkit.merge import write as writing

from ..merge.bases import adapter, base, merged

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, kills and mounts")

KILLS = 50
SHARDS = "20KB"


def digest(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base of many files, an adapter, and what an uninterrupted merge gives."""
    folder = tmp_path_factory.mktemp("made")
    of = base("llama", "bfloat16", SHARDS)
    one = adapter(of, folder / "a", "bfloat16", target_modules=["q_proj", "v_proj", "down_proj"])
    begun = time.monotonic()
    merged(of, [one], folder / "out")
    return of, one, digest(folder / "out"), time.monotonic() - begun


def in_a_child(work) -> int:
    """Fork, do it there, and return how the child ended: minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_event(number: int) -> None:
    """Kill this process at its n-th call that opens, renames, makes or removes something."""
    seen = 0
    kinds = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "shutil.copyfile", "os.chmod")

    def hook(event, arguments):
        nonlocal seen
        if event in kinds and ".merge" in str(arguments):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def kill_while_it_writes(child: int, staging: Path, delay: float) -> None:
    """Kill a merge some time after it began to write; planning takes most of a small one's time."""
    given_up = time.monotonic() + 60
    while not staging.exists() and time.monotonic() < given_up:
        time.sleep(0.0005)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("how", ["at a call", "at a time"])
def test_a_killed_merge_is_invisible_and_is_finished_by_a_second_call(how, made, tmp_path, monkeypatch):
    of, one, wanted, seconds = made
    drawn = random.Random(how)
    killed, resumed = 0, 0
    written = []
    original = writing.write_file

    def noting(file, *rest):
        written.append(file.name)
        return original(file, *rest)

    monkeypatch.setattr(writing, "write_file", noting)
    for number in range(KILLS // 2):
        out = tmp_path / f"out-{number}"

        def first(out=out, number=number):
            if how == "at a call":
                kill_at_event(1 + number * 2)
            merged(of, [one], out)

        child = in_a_child(first)
        if how == "at a time":
            kill_while_it_writes(child, staging_of(out), drawn.uniform(0, seconds / 4))
        if ended(child) == -signal.SIGKILL:
            killed += 1
            staging = staging_of(out)
            if out.exists():  # killed between the last renaming and the end
                assert digest(out) == wanted
                continue
            whole = set()
            if (staging / ".state" / "key.json").exists():
                whole = {file.name for file in staging.glob("*.safetensors")}
            written.clear()
            merged(of, [one], out)
            assert not whole & set(written)
            assert whole | set(written) == {name for name in wanted if name.endswith(".safetensors")}
            resumed += bool(whole)
        assert digest(out) == wanted
        assert not staging_of(out).exists()
    assert killed >= KILLS // 4
    assert resumed >= 3


def staging_of(out: Path) -> Path:
    return out.parent / f".{out.name}.merge"


def test_what_another_merge_left_is_not_taken_up(made, tmp_path):
    of, one, wanted, _ = made
    out = tmp_path / "out"
    child = in_a_child(lambda: (kill_at_event(40), merged(of, [(one, 0.5)], out)))
    assert ended(child) == -signal.SIGKILL
    assert list(staging_of(out).glob("*.safetensors"))
    merged(of, [one], out)
    assert digest(out) == wanted


def test_a_disk_that_is_too_small_is_refused_before_a_byte_is_written(made, small_disk):
    of, one, _, _ = made
    disk = small_disk("64k")
    before = digest(of)
    with pytest.raises(OutputError, match=r"needs [\d.]+ kB, and the disk has [\d.]+ kB free") as caught:
        merged(of, [one], disk / "out")
    assert caught.value.exit_code == 6
    assert not list(disk.iterdir())
    assert digest(of) == before


def test_a_disk_that_fills_up_says_what_is_needed_and_keeps_nothing(made, small_disk, monkeypatch):
    of, one, _, _ = made
    disk = small_disk("64k")
    monkeypatch.setattr("peftkit.merge.staging._SPARE", -(10**12))  # as if another program took the room meanwhile
    with pytest.raises(OutputError, match=r"No space left on device \(it needs [\d.]+ kB, and .* are free\)"):
        merged(of, [one], disk / "out")
    assert not list(disk.iterdir())


def test_a_read_only_place_is_refused(made, small_disk):
    of, one, _, _ = made
    disk = small_disk("10m", "ro")
    with pytest.raises(OutputError, match="Read-only file system; give another place"):
        merged(of, [one], disk / "out")


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("call", range(1, 9))
def test_a_write_that_fails_anywhere_leaves_nothing(call, number, made, tmp_path, monkeypatch):
    of, one, _, _ = made
    calls = 0
    original = os.fsync

    def fails(handle):
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(number, os.strerror(number))
        original(handle)

    monkeypatch.setattr(os, "fsync", fails)
    before = digest(of)
    with pytest.raises(OutputError, match=os.strerror(number)) as caught:
        merged(of, [one], tmp_path / "out")
    assert (number == errno.EIO) != ("it needs" in str(caught.value))
    assert not list(tmp_path.iterdir())
    assert digest(of) == before


def test_an_interrupted_merge_can_be_taken_up(made, tmp_path, monkeypatch):
    of, one, wanted, _ = made
    calls = 0
    original = stream._change

    def interrupted(*arguments):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(stream, "_change", interrupted)
    with pytest.raises(KeyboardInterrupt):
        merged(of, [one], tmp_path / "out")
    assert list(staging_of(tmp_path / "out").glob("*.safetensors"))
    merged(of, [one], tmp_path / "out")
    assert digest(tmp_path / "out") == wanted
