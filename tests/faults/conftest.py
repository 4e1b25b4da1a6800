"""A run that nothing happened to, to compare with; and small disks."""

import pytest

from . import world
from .disks import CannotMount, mounted


@pytest.fixture(scope="session")
def alone():
    """The words of a run, and the folder of one that was left alone."""
    return world.alone()


@pytest.fixture
def small_disk(tmp_path):
    """Give a function that mounts a file system of a few bytes."""
    with mounted(tmp_path / "disk") as mount:

        def or_skip(*words):
            try:
                return mount(*words)
            except CannotMount:
                pytest.skip("no file system can be mounted here")

        yield or_skip
