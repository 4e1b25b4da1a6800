"""What a run's folder holds, and how its files are written so that none is ever half there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from peftkit.errors import OutputError

RUNS = Path("runs")
"""Where runs go whose folder was not named."""
_LEFTOVERS = ".*.tmp-*"  # files that were not finished
_NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


class RunFolder:
    """The folder of one run. It can be moved, zipped, compared and deleted as one thing.

    Attributes:
        path: The folder itself; the other attributes name what is in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.data = path / "data.json"
        self.forecast = path / "forecast.json"
        self.rejected = path / "rejected.jsonl"
        self.metrics = path / "metrics.jsonl"
        self.predictions = path / "predictions.jsonl"
        self.summary = path / "summary.json"
        self.report = path / "report.html"
        self.checkpoints = path / "checkpoints"
        self.retries = self.checkpoints / "memory.json"
        self.lock = path / ".lock"
        self.adapter = path / "adapter"

    @classmethod
    def create(cls, path: Path | None, recipe: str, now: datetime) -> RunFolder:
        """Make the folder of a new run; without a path, `runs/RECIPE-DATE-TIME`.

        Raises:
            OutputError: The path holds a run or other files already, is a file, or cannot be written.
        """
        try:
            folder = path or _make_new(RUNS / f"{recipe}-{now:%Y%m%d-%H%M%S}")
            if folder.is_file():
                raise OutputError(f"'{folder}' is a file; give a folder that does not exist yet with --out")
            # A run that was killed before it had written its configuration holds nothing yet.
            if folder.is_dir() and any(not one.match(_LEFTOVERS) for one in folder.iterdir()):
                run = (folder / "config.yaml").exists()
                holds, go_on = ("holds a run", "go on with it by --resume, or ") if run else ("is not empty", "")
                raise OutputError(
                    f"the folder '{folder}' {holds} and is never written over; {go_on}give another one with --out"
                )
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise OutputError(
                f"the folder '{path or RUNS}' cannot be written: {error.strerror}; give another with --out"
            ) from error
        return cls(folder)

    @contextmanager
    def given_back_on_failure(self) -> Iterator[None]:
        """Remove the folder if what happens inside fails: nothing is made yet, and the name is free for another try.

        Only what a start writes is removed; the folder stays if it holds anything else.
        """
        try:
            yield
        except BaseException:
            run = self.checkpoints / "run.json"
            for file in (self.config, self.data, self.forecast, self.rejected, run, self.retries, self.lock):
                file.unlink(missing_ok=True)
            default_parent = [RUNS] if self.path.parent == RUNS else []
            for folder in (self.checkpoints, self.path, *default_parent):
                with suppress(OSError):  # it is absent, or holds something that is not ours
                    folder.rmdir()
            raise

    def take_away_leftovers(self) -> None:
        """Take away files that a killed process was about to finish; call it only while no other one works here."""
        for folder in (self.path, self.adapter, self.checkpoints):
            for stale in folder.glob(_LEFTOVERS):
                if stale.is_file():
                    stale.unlink()

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Return the folder of a run that exists.

        Raises:
            OutputError: The path holds no run.
        """
        run = cls(path)
        try:
            found = run.config.is_file()
        except OSError as error:
            raise OutputError(f"'{path}' cannot be read: {error.strerror}") from error
        if not found:
            raise OutputError(f"'{path}' holds no run (it has no config.yaml); give the folder that a run wrote")
        return run


def _make_new(path: Path) -> Path:
    """Make a folder of that name, or of the next free one: two runs in one second get two folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder, number = path, 2
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            folder, number = path.with_name(f"{path.name}-{number}"), number + 1


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary sibling to write; it takes the final name only when it is complete and on the disk.

    Raises:
        OutputError: The file cannot be written; the final name then holds what it held before.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        yield temporary
        sync_file(temporary)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"'{path}' cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # it was renamed, or never came to be
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary sibling folder to fill; it takes the final name only when it is complete.

    Raises:
        OutputError: There is something at the path already, or it cannot be written; nothing is left behind then.
    """
    require_new(path)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        require_new(path)  # renaming would replace an empty folder that came to be in the meantime
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"'{path}' cannot be written: {error.strerror or error}; give another name") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync_file(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can do that."""
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS:
            raise
    finally:
        os.close(handle)


def require_new(path: Path) -> None:
    """Refuse to write over a file or folder.

    Raises:
        OutputError: There is something at the path already, or nothing can be there.
    """
    try:
        exists = path.exists()
    except OSError as error:
        raise OutputError(f"'{path}' cannot be written: {error.strerror}; give another name") from error
    if exists:
        raise OutputError(f"'{path}' exists and is not written over; give another name")


def write_text(path: Path, text: str) -> None:
    """Write a text file in one piece."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one piece, with keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write a JSON-lines file in one piece."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def append_lines(path: Path, rows: Iterable[Any]) -> None:
    """Add lines to a JSON-lines file, or none where they cannot all be written; a crash can tear the last one.

    Raises:
        OSError: They cannot be written.
    """
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        left = text.encode()
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(end)
            raise


def read_json(path: Path) -> Any:
    """Read a JSON file that a run wrote.

    Raises:
        OutputError: The file is absent or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OutputError(f"'{path}' cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise OutputError(f"'{path}' is damaged: {error}") from error
