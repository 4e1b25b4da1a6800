"""The folder that a merge is made in: hidden beside the result, finished file by file, and renamed at the end.

A merge that was killed leaves it; the next call for the same merge goes on with the files that are whole, and another
merge starts anew. A merge that fails takes it away.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from peftkit.errors import OutputError, PeftkitError
from peftkit.model.assets import locked
from peftkit.rundir import sync_file, sync_folder, write_json
from peftkit.ui import size

RECORD = "merge.json"
"""In the result: what it was made of, and the proof. A folder without it is never replaced."""
_STATE = ".state"
_KEY = "key.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SPARE = 1 << 24  # bytes for what is written beside the weights


class Staging:
    """A result that is being made.

    Args:
        out: Where the result will be.
        key: What tells this merge from another one.
        mark: Tells it from another result that is made for the same place.
    """

    def __init__(self, out: Path, key: Mapping[str, Any], mark: str = "") -> None:
        self.out = out
        self.path = out.parent / f".{out.name}.merge{mark and '-'}{mark}"
        self._state = self.path / _STATE
        self._key = dict(key)
        self._needed = 0

    def file(self, name: str) -> Path:
        """Return the path of a file of the result."""
        return self.path / name

    def finished(self, name: str) -> Any:
        """Return what was noted of a file of weights that is whole; None where it has to be written."""
        if not self.file(name).is_file():
            return None
        try:
            return json.loads((self._state / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def finish(self, name: str, partial: Path, seen: Any) -> None:
        """Give a file of weights its name, now that it is on the disk."""
        write_json(self._state / f"{name}.json", seen)
        partial.replace(self.file(name))
        sync_folder(self.path)

    def partial(self, name: str) -> Path:
        """Return where a file of weights is written."""
        return self._state / f"{name}.part"

    def _begin(self) -> None:
        """Take up what the same merge left, or start anew."""
        try:
            same = json.loads((self._state / _KEY).read_text(encoding="utf-8")) == self._key
        except (OSError, ValueError):
            same = False
        if same:
            self._keep_finished()
        elif self.path.exists():
            shutil.rmtree(self.path)
        self._state.mkdir(parents=True, exist_ok=True)
        if not same:
            write_json(self._state / _KEY, self._key)

    def _keep_finished(self) -> None:
        """Take away all but the files of weights that are whole: what else a killed process wrote may be half there."""
        for file in self.path.iterdir():
            if self.finished(file.name) is None and file != self._state:
                shutil.rmtree(file) if file.is_dir() else file.unlink()

    def publish(self, *, replace: bool) -> None:
        """Give the result its name; a merged model that stands there goes once the new one is in its place."""
        shutil.rmtree(self._state)
        for file in self.path.iterdir():
            if file.is_file():
                sync_file(file)
        sync_folder(self.path)
        old = self.out.parent / f".{self.out.name}.replaced"
        if replace and self.out.exists():
            shutil.rmtree(old, ignore_errors=True)
            self.out.rename(old)
        self.path.rename(self.out)
        sync_folder(self.out.parent)
        shutil.rmtree(old, ignore_errors=True)

    @contextmanager
    def opened(self) -> Iterator[Staging]:
        """Work on the result; what fails leaves nothing, and what is killed or interrupted can be taken up.

        Raises:
            OutputError: It cannot be written.
        """
        try:
            self._begin()
            yield self
        except (OSError, PeftkitError) as error:
            self.discard()
            cause = error if isinstance(error, OSError) else error.__cause__
            if isinstance(cause, OSError) and isinstance(error, OSError | OutputError):
                raise OutputError(self._why(cause)) from error
            raise

    def discard(self) -> None:
        """Take away a result that is not wanted."""
        shutil.rmtree(self.path, ignore_errors=True)

    def require_room(self, needed: int) -> None:
        """Refuse to start what the disk has no room for.

        Args:
            needed: Bytes that are still to be written.

        Raises:
            OutputError: There is less free.
        """
        self._needed = needed
        free = shutil.disk_usage(self.path).free
        if needed + _SPARE > free:
            raise OutputError(
                f"'{self.out}' needs {size(needed)}, and the disk has {size(free)} free; make room, or give another "
                "place"
            )

    def _why(self, error: OSError) -> str:
        why = f"'{self.out}' cannot be written: {error.strerror or error}"
        if error.errno in _FULL:
            with suppress(OSError):
                free = shutil.disk_usage(self.out.parent).free
                why += f" (it needs {size(self._needed)}, and {size(free)} are free); make room, or"
        return f"{why} give another place" if why.endswith("or") else f"{why}; give another place"


@contextmanager
def alone_beside(out: Path, progress: Callable[[str], None] | None = None) -> Iterator[None]:
    """Let one process at a time merge into a folder's parent, which is made if it is not there.

    Raises:
        OutputError: It cannot be made.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"'{out}' cannot be written: {error.strerror}; give another place") from error
    with locked(out.parent, progress):
        yield


def require_free(out: Path, *, force: bool) -> None:
    """Refuse to write over anything but an earlier merge that may go.

    Raises:
        OutputError: There is something at the path.
    """
    try:
        if not out.exists() and not out.is_symlink():
            return
        mine = (out / RECORD).is_file()
    except OSError as error:
        raise OutputError(f"'{out}' cannot be written: {error.strerror}; give another place") from error
    if not mine:
        raise OutputError(f"'{out}' exists and is not written over; give another place")
    if not force:
        raise OutputError(f"'{out}' holds a merged model and is not written over; give another place, or pass --force")
