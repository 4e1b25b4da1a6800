"""A lock that could not be written is let go."""

import errno
import os

import pytest

from peftkit.checkpoint.lock import alone_with
from peftkit.errors import OutputError


def test_a_full_disk_leaves_no_lock_behind(tmp_path, monkeypatch):
    def full(handle, written):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OutputError, match="cannot be written: No space left"), alone_with(tmp_path / ".lock"):
            raise AssertionError("the folder is held")
    with alone_with(tmp_path / ".lock"):
        assert (tmp_path / ".lock").read_text().startswith('{"pid"')
    assert not (tmp_path / ".lock").exists()
