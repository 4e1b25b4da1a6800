"""Main memory watched, since a process that takes too much of it is ended by the system without a word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from peftkit import machine
from peftkit.memory.exhausted import HostMemoryLowError
from peftkit.ui import size as in_bytes

RESERVE = 1 << 27
"""Bytes of main memory that are left alone: below this the system begins to look for a process to end."""
_UNLIMITED = 1 << 60  # version 1 of cgroups writes a number near 2**63 where there is no limit
_FILES = {  # of a cgroup: its limit, what it takes, and the name in memory.stat of what the system can take back
    "v2": ("memory.max", "memory.current", "inactive_file"),
    "v1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def free_memory() -> int:
    """Return how many bytes of main memory this process can still have: of the machine, and of its cgroup."""
    return min([machine.available_memory(), *cgroup_room()])


def cgroup_room(membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """Yield the bytes that are free in each cgroup with a limit that this process is in, as containers set them."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        version, top = ("v1", root / "memory") if controllers else ("v2", root)
        inside = top / path.strip("/")
        for folder in dict.fromkeys((inside, *inside.parents)):
            if folder == top or top in folder.parents:
                yield from _room(folder, version)


def _room(folder: Path, version: str) -> Iterator[int]:
    limit_file, taken_file, inactive = _FILES[version]
    try:
        limit = (folder / limit_file).read_text(encoding="utf-8").strip()
        taken = int((folder / taken_file).read_text(encoding="utf-8"))
        stat = (folder / "memory.stat").read_text(encoding="utf-8").split()
    except (OSError, ValueError):  # another container's, or the root, which has no limit
        return
    if limit != "max" and int(limit) < _UNLIMITED:
        reclaimable = int(stat[stat.index(inactive) + 1]) if inactive in stat else 0
        yield max(0, int(limit) - taken + reclaimable)


class HostWatch:
    """Compares the memory that is free with what a batch needs, which is known from the batches before.

    The system says how much this process ever held at once. A batch that raised it shows what such batches need; one
    of another size is taken to need in proportion. What this process holds already, freed or not, needs no room again.

    Args:
        free: Returns the bytes that are free.
        resident: Returns the bytes that this process holds.
        peak: Returns the most bytes that it ever held.
    """

    def __init__(
        self,
        free: Callable[[], int] = free_memory,
        resident: Callable[[], int] = machine.resident,
        peak: Callable[[], int] = machine.peak_resident,
    ) -> None:
        self._free, self._resident = free, resident
        self.peak = peak
        self._stood = self._rise = 0
        self._of = 1

    def require(self, size: int = 0) -> None:
        """Look whether there is room for a batch of so many tokens.

        Raises:
            HostMemoryLowError: There is not.
        """
        self.require_up_to(self._stood + self._rise * size // self._of)

    def require_up_to(self, level: int) -> None:
        """Look whether this process can come to hold so many bytes.

        Raises:
            HostMemoryLowError: It cannot.
        """
        needed, free = max(0, level - self._resident()), self._free()
        if free < needed + RESERVE:
            raise HostMemoryLowError(
                f"main memory: what comes next takes about {in_bytes(needed)} more, and {in_bytes(free)} are free"
            )

    @contextmanager
    def batch(self, size: int) -> Iterator[None]:
        """Look whether there is room for a batch of so many tokens, and learn what it takes.

        Raises:
            HostMemoryLowError: There is none.
        """
        self.require(size)
        stood, before = self._resident(), self.peak()
        yield
        after = self.peak()
        if after > before:
            self._stood, self._rise, self._of = stood, max(0, after - stood), max(1, size)
