"""Damage to each file that a run goes on from: it is found, the older checkpoint is used, and nothing is deleted."""

import ctypes
import json
import random
import shutil
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

from peftkit.checkpoint.folders import damage

from .children import assert_same, in_a_child
from .rows import Case
from .world import alone, stopped

NEWEST, OLDER = "checkpoint-5", 3
FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "manifest.json",
    "state.json",
    "state.safetensors",
    "trainer_state.json",
)
BESIDE = ("run.json", "before.json")
"""Files beside the checkpoints: whose they are, and what the base model answered."""
SAYS_THE_SAME = ("a link", "one byte less")  # the last byte ends the line
REFUSED = 13  # how a run ends that may not go on
FLIPS, AT_ONCE = 10_000, 1_000


def cases(full: bool) -> Iterator[Case]:
    """Give each file with each damage, and bits that are flipped; in the short form each damage once."""
    names = [*FILES, *BESIDE]
    pairs = product(names, DAMAGE) if full else zip(names, DAMAGE, strict=True)
    for name, how in pairs:
        yield Case(f"{name}: {how}", partial(a_damaged_file, name, how))
    for number in range(FLIPS // AT_ONCE if full else 1):
        yield Case(f"flipped bits {number}", partial(flipped_bits, number, AT_ONCE if full else AT_ONCE // 5))


def a_damaged_file(name: str, how: str, folder: Path) -> dict[str, int]:
    """Damage a file of a stopped run, and go on with it."""
    run = shutil.copytree(stopped(), folder / "run")
    kept = {
        file.relative_to(run / "checkpoints" / NEWEST): file.read_bytes()
        for file in (run / "checkpoints" / NEWEST).iterdir()
        if file.name != name
    }
    place = run / "checkpoints" / ("" if name in BESIDE else NEWEST) / name
    DAMAGE[how](place)
    left = in_a_child(["resume", run, "--quiet"], without_rights_of_root)
    if name == "run.json" and how not in SAYS_THE_SAME:  # whose checkpoints these are is not guessed
        assert left == REFUSED
        assert (run / "checkpoints" / NEWEST).is_dir()
        return {"refused": 1}
    assert left == 0
    assert_same(run, alone()[1])
    went_on = json.loads((run / "summary.json").read_text())["went_on_after_step"]
    if name in BESIDE:  # answers that are damaged are computed again
        assert went_on == 5
        return {"went on": 1}
    assert went_on == OLDER
    aside = run / "checkpoints" / f"{NEWEST}.damaged"
    assert {name: (aside / name).read_bytes() for name in kept} == kept
    assert place.name in {one.name for one in aside.iterdir()} or how == "gone"
    return {"older one used": 1}


def flipped_bits(seed: int, flips: int, folder: Path) -> dict[str, int]:
    """Flip one bit of a checkpoint at a time, in each of its files equally often."""
    checkpoint = shutil.copytree(stopped() / "checkpoints" / NEWEST, folder / NEWEST)
    drawn = random.Random(seed)
    files = sorted(checkpoint.iterdir())
    for number in range(flips):
        with files[number % len(files)].open("r+b") as file:
            place = drawn.randrange(8 * files[number % len(files)].stat().st_size)
            flip(file, place)
            file.flush()
            assert damage(checkpoint), (file.name, place)
            flip(file, place)
    assert damage(checkpoint) is None
    return {"tried": flips, "bits": flips}


def flip(file, place: int) -> None:
    file.seek(place // 8)
    byte = file.read(1)[0]
    file.seek(place // 8)
    file.write(bytes([byte ^ 1 << place % 8]))


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_link(path: Path) -> None:
    """Replace a file by a link to a copy of it, which is as good until somebody changes the copy."""
    copy = path.parents[2] / f"copy-of-{path.name}"
    path.rename(copy)
    path.symlink_to(copy)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "one byte less": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a changed bit": lambda path: path.write_bytes(path.read_bytes().replace(b"a", b"`", 1)),
    "gone": lambda path: path.unlink(),
    "a folder": to_folder,
    "a link": to_link,
    "unreadable": lambda path: path.chmod(0),
}


def without_rights_of_root() -> None:
    """Take this process root's right to read what nobody may read; for others it changes nothing."""
    version, whole = 0x20080522, 0xFFFFFFFF
    others = whole & ~0b110  # all but CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    header = (ctypes.c_uint32 * 2)(version, 0)
    held = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.capget(header, held)
    held[0] &= others
    libc.capset(header, held)
