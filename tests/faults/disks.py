"""File systems of a few bytes."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class CannotMount(Exception):
    """No file system can be mounted here."""


@contextmanager
def mounted(place: Path) -> Iterator[Callable[..., Path]]:
    """Give a function that mounts a file system at a place, of a size and with options.

    Raises:
        CannotMount: This process may not, or there is no such command.
    """
    done = []

    def mount(size: str, *options: str) -> Path:
        place.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", ",".join((f"size={size}", *options)), "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(words, capture_output=True, check=False).returncode:
            raise CannotMount
        done.append(place)
        return place

    try:
        yield mount
    finally:
        for one in done:
            subprocess.run(["umount", str(one)], check=True)
