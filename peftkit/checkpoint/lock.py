"""One process at a time works on a run's folder; the lock of one that died is taken over."""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peftkit.errors import OutputError

if sys.platform != "win32":
    import fcntl

_HELD = (errno.EACCES, errno.EAGAIN)
_held_here: set[Path] = set()


@contextmanager
def alone_with(lock: Path) -> Iterator[None]:
    """Hold the folder that a lock's file is in for this process.

    The system's own lock is asked for, which ends with the process and which forked children do not hold. Where there
    is none (Windows, some network file systems), the process that the file names is looked for.

    Raises:
        OutputError: Another process works on it, or it cannot be written.
    """
    path, folder = lock.resolve(), lock.parent
    if path in _held_here:
        raise OutputError(f"this process works on '{folder}' already; wait until it is done")
    try:
        handle = _open_locked(path, folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    _held_here.add(path)
    try:
        try:
            os.truncate(handle, 0)
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, json.dumps(_this_process()).encode())
        except OSError as error:
            raise _unwritable(folder, error) from error
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(handle)
        _held_here.discard(path)


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"'{folder}' cannot be written: {error.strerror}; give another place")


def _open_locked(path: Path, folder: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _locked(handle):
            holder = _holder(handle)
            os.close(handle)
            raise OutputError(f"another process works on '{folder}'{_said(holder)}; wait until it is done, or stop it")
        with suppress(FileNotFoundError):  # the one that held it may have taken the file away meanwhile
            if path.stat().st_ino == os.fstat(handle).st_ino:
                return handle
        os.close(handle)


def _locked(handle: int) -> bool:
    """Whether the lock is this process's now."""
    if sys.platform != "win32":
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in _HELD:
                return False
    return not _runs(_holder(handle))


def _runs(holder: dict[str, Any]) -> bool:
    """Whether the process that a lock names is alive; a number that was given to another process does not count."""
    import psutil

    if holder.get("host") != platform.node() or holder.get("pid") == os.getpid():
        return False
    try:
        return abs(psutil.Process(holder["pid"]).create_time() - float(holder["born"])) < 1
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _this_process() -> dict[str, Any]:
    import psutil

    started = datetime.now(UTC).isoformat(timespec="seconds")
    born = psutil.Process().create_time()
    return {"pid": os.getpid(), "host": platform.node(), "started": started, "born": born}


def _holder(handle: int) -> dict[str, Any]:
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        found = json.loads(os.read(handle, 4096))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _said(holder: dict[str, Any]) -> str:
    if "pid" not in holder:
        return ""
    return f" (process {holder['pid']} on {holder.get('host')}, since {holder.get('started')})"
