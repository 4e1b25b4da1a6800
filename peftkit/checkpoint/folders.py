"""Checkpoints on the disk: one is whole or not there, is checked before it is used, and is never deleted when damaged.

A checkpoint is written to a hidden folder beside its final name. Its files reach the disk, then a manifest with their
sha256, then the folder takes its name. What a killed process leaves is hidden, and goes at the next start.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from peftkit.errors import CheckpointError, OutputError
from peftkit.rundir import sync_file, sync_folder

MANIFEST = "manifest.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_HIDDEN = ".checkpoint-*"
Fill = Callable[[Path], Mapping[str, str]]
"""Writes the files of a checkpoint into a folder, and returns the sha256 of those that it knows it of."""


class Checkpoints:
    """The checkpoints of one run; only one process at a time works on them.

    Args:
        folder: Where they are; it need not exist.
        keep: How many are kept, at least two.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = max(2, keep)
        self._whole: set[int] = set()

    def open(self, report: Callable[[str], None]) -> Path | None:
        """Take away what a killed process left, check all checkpoints, and return the newest one that is whole.

        Args:
            report: Told of each damaged one, which is set aside under another name.

        Raises:
            OutputError: A damaged one cannot be renamed.
        """
        for stale in self.folder.glob(_HIDDEN):
            shutil.rmtree(stale, ignore_errors=True)
        self._whole.clear()
        for step, path in sorted(self._found().items(), reverse=True):
            wrong = damage(path)
            if wrong is None:
                self._whole.add(step)
            else:
                report(f"'{path}' is damaged: {wrong}; it was set aside as '{self._set_aside(path).name}'")
        return self.path(max(self._whole)) if self._whole else None

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step is."""
        return self.folder / f"checkpoint-{step}"

    @property
    def newest_step(self) -> int | None:
        """The step of the newest checkpoint that is whole."""
        return max(self._whole, default=None)

    def save(self, step: int, fill: Fill) -> Path:
        """Write the checkpoint of a step, read it again to see that it is whole, and drop those that are not needed.

        Raises:
            OutputError: It cannot be written; the older ones are as they were.
        """
        final = self.path(step)
        if step in self._whole:
            return final
        temporary = self.folder / f".{final.name}.tmp-{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if final.exists():
                self._set_aside(final)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            known = fill(temporary)
            _seal(temporary, step, known)
            temporary.rename(final)
            sync_folder(self.folder)
        except OSError as error:
            raise OutputError(f"'{final}' cannot be written: {error.strerror or error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        wrong = damage(final)
        if wrong is not None:
            self._set_aside(final)
            raise OutputError(f"'{final}' cannot be read as it was written: {wrong}; look at this disk")
        self._whole.add(step)
        self._prune()
        return final

    def _prune(self) -> None:
        """Drop the oldest; each is hidden first, so that one that is half gone is never taken for damaged."""
        for step in sorted(self._whole)[: -self._keep]:
            hidden = self.folder / f".checkpoint-{step}.old-{os.getpid()}"
            try:
                self.path(step).rename(hidden)
            except OSError:  # it stays, and costs space only
                continue
            self._whole.discard(step)
            shutil.rmtree(hidden, ignore_errors=True)

    def _found(self) -> dict[int, Path]:
        if not self.folder.is_dir():
            return {}
        return {int(match[1]): one for one in self.folder.iterdir() if (match := _NAME.fullmatch(one.name))}

    def _set_aside(self, path: Path) -> Path:
        """Give a damaged checkpoint another name; it is never deleted."""
        place, number = path.with_name(f"{path.name}.damaged"), 2
        while place.exists() or place.is_symlink():
            place, number = path.with_name(f"{path.name}.damaged-{number}"), number + 1
        try:
            path.rename(place)
        except OSError as error:
            raise OutputError(f"'{path}' is damaged and cannot be renamed: {error.strerror}") from error
        return place


def damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint; None where all bytes are those that were written."""
    match = _NAME.fullmatch(path.name)
    try:
        if match is None or path.is_symlink() or not path.is_dir():
            return "it is no folder of a checkpoint"
        written = (path / MANIFEST).read_bytes()
        files = json.loads(written)["files"]
        if (path / MANIFEST).is_symlink() or written != _manifest(int(match[1]), files):
            return f"{MANIFEST} is not as it was written"
        for name, one in files.items():
            file = path / name
            if file.is_symlink() or not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != one["size"]:
                return f"{name} has {file.stat().st_size} bytes and had {one['size']}"
            if _sha256(file) != one["sha256"]:
                return f"{name} is not as it was written"
    except OSError as error:
        return f"{Path(error.filename or MANIFEST).name} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is not as it was written"
    return None


def read_values(path: Path) -> Any:
    """Read a JSON file of a checkpoint that was checked.

    Raises:
        CheckpointError: It is absent or damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"'{path}' cannot be read: {error}; take a copy of the run's folder that is whole"
        ) from error


def _seal(folder: Path, step: int, known: Mapping[str, str]) -> None:
    """Bring all files to the disk, and the manifest after them."""
    files = {}
    for file in sorted(folder.iterdir()):
        sync_file(file)
        files[file.name] = {"size": file.stat().st_size, "sha256": known.get(file.name) or _sha256(file)}
    (folder / MANIFEST).write_bytes(_manifest(step, files))
    sync_file(folder / MANIFEST)
    sync_folder(folder)


def _manifest(step: int, files: Mapping[str, Any]) -> bytes:
    """Write a manifest; it holds the sha256 of what it says, so that a changed manifest is seen too."""
    said = {"schema": 1, "step": step, "files": files}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**said, "sha256": digest}, indent=2, sort_keys=True) + "\n").encode()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
