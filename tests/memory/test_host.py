"""Main memory is asked for what a batch needs, and no more."""

import pytest

from peftkit.memory.exhausted import HostMemoryLowError
from peftkit.memory.host import RESERVE, HostWatch, cgroup_room


class Host:
    """Main memory of a made-up machine, where a batch takes 10 MB for each token."""

    def __init__(self, free):
        self.free, self.here, self.top = free, 2_000_000_000, 2_000_000_000
        self.watch = HostWatch(lambda: self.free, lambda: self.here, lambda: self.top)

    def batch(self, size):
        with self.watch.batch(size):
            self.top = max(self.top, self.here + size * 10_000_000)


def test_main_memory_is_asked_for_what_a_batch_needs_and_no_more():
    host = Host(free=1_500_000_000)
    host.batch(100)
    host.free = 1_000_000_000 + RESERVE
    host.batch(100)  # just enough is no alarm
    host.free -= 1
    with pytest.raises(HostMemoryLowError, match=r"takes about 1\.00 GB more, and 1\.13 GB are free"):
        host.batch(100)
    host.batch(50)  # a smaller one has room
    with pytest.raises(HostMemoryLowError):
        host.batch(101)
    host.here += 1_000_000_000  # freed, but not given back to the system: it needs no room again
    host.free = RESERVE
    host.batch(100)
    host.free -= 1
    with pytest.raises(HostMemoryLowError):
        host.watch.require()


def test_a_batch_that_stays_below_what_was_held_before_is_no_alarm():
    host = Host(free=RESERVE)
    host.top += 5_000_000_000  # the model was loaded with that much for a moment
    for _ in range(2):
        host.batch(100)


def test_the_room_of_cgroups(tmp_path):
    root = tmp_path / "cgroup"
    inside = root / "user" / "job"
    inside.mkdir(parents=True)
    for folder, limit, taken in ((inside, "max", 5), (root / "user", "1000", 700)):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{taken}\n")
        (folder / "memory.stat").write_text("anon 1\ninactive_file 50\n")
    membership = tmp_path / "membership"
    membership.write_text("0::/user/job\n")
    assert list(cgroup_room(membership, root)) == [350]
    old = root / "memory" / "job"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("2000\n")
    (old / "memory.usage_in_bytes").write_text("100\n")
    (old / "memory.stat").write_text("cache 1\ninactive_file 3\ntotal_inactive_file 4\n")
    (root / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (root / "memory" / "memory.usage_in_bytes").write_text("100\n")
    (root / "memory" / "memory.stat").write_text("")
    membership.write_text("4:memory:/job\n3:cpu:/\n")
    assert list(cgroup_room(membership, root)) == [1904]
    assert list(cgroup_room(tmp_path / "none", root)) == []
