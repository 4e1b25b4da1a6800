"""Named points of a run's life, at which a child is killed or gets a signal.

Each is a function that is called in the child with an action. The action is told of each time that the point is
reached, and acts when it likes.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from peftkit.checkpoint import folders, state
from peftkit.checkpoint.folders import MANIFEST
from peftkit.train import callbacks, checkpointed

from .children import kill

Act = Callable[[], None]


def nth(number: int, signal_number: int) -> Act:
    """Send this process a signal when a point is reached for the n-th time."""
    reached = 0

    def act() -> None:
        nonlocal reached
        reached += 1
        if reached == number:
            kill(signal_number)

    return act


def around(owner, name: str, before: Act = lambda: None, after: Act = lambda: None) -> None:
    """Act before or after a function."""
    original = getattr(owner, name)

    def wrapped(*arguments):
        before()
        given = original(*arguments)
        after()
        return given

    setattr(owner, name, wrapped)


def half(path: Path) -> None:
    """Take the second half of a file away, as if it had not been written yet."""
    os.truncate(path, path.stat().st_size // 2)


def in_the_middle_of_the_tensors(act: Act) -> None:
    original = state.write_tensors

    def torn(path, tensors):
        whole = original(path, tensors)
        data = path.read_bytes()
        half(path)
        act()
        path.write_bytes(data)
        return whole

    state.write_tensors = torn


def in_the_middle_of_the_manifest(act: Act) -> None:
    original = Path.write_bytes

    def torn(self, data):
        if self.name == MANIFEST:
            original(self, data[: len(data) // 2])
            act()
        return original(self, data)

    Path.write_bytes = torn


def after_the_manifest(act: Act) -> None:
    original = Path.write_bytes

    def noting(self, data):
        given = original(self, data)
        if self.name == MANIFEST:
            act()
        return given

    Path.write_bytes = noting


def after_the_folder_has_its_name(act: Act) -> None:
    original = Path.rename

    def noting(self, new):
        given = original(self, new)
        if ".tmp-" in self.name:
            act()
        return given

    Path.rename = noting


def in_the_middle_of_pruning(act: Act) -> None:
    original = shutil.rmtree

    def torn(path, **arguments):
        if ".old-" in str(path):
            next(Path(path).iterdir()).unlink()
            act()
        return original(path, **arguments)

    shutil.rmtree = torn


def in_the_middle_of_a_line_of_the_log(act: Act) -> None:
    original = callbacks.append_lines

    def torn(path, rows):
        before = path.stat().st_size if path.exists() else 0
        original(path, rows)
        data = path.read_bytes()
        os.truncate(path, (before + len(data)) // 2)
        act()
        path.write_bytes(data)

    callbacks.append_lines = torn


def at_events(within: Path, but: str, kinds: tuple[str, ...] = ("open", "os.rename", "os.mkdir", "os.remove")):
    """Give the point of calls that open, rename, make or remove something in a folder."""

    def point(act: Act) -> None:
        def hook(event, arguments):
            said = str(arguments)
            if event in kinds and str(within) in said and but not in said:
                act()

        sys.addaudithook(hook)

    return point


IN_A_SAVE = {
    "before the first byte": lambda act: around(checkpointed.CheckpointedTrainer, "_fill", before=act),
    "after the adapter's files": lambda act: around(checkpointed, "save_adapter", after=act),
    "in the middle of the tensors": in_the_middle_of_the_tensors,
    "before the files reach the disk": lambda act: around(folders, "_seal", before=act),
    "in the middle of the manifest": in_the_middle_of_the_manifest,
    "before the manifest reaches the disk": after_the_manifest,
    "before the renaming": lambda act: around(folders, "_seal", after=act),
    "after the renaming": after_the_folder_has_its_name,
    "before the oldest goes": lambda act: around(folders.Checkpoints, "_prune", before=act),
    "in the middle of pruning": in_the_middle_of_pruning,
}
"""Points of the writing of a checkpoint; each is reached at every save."""
