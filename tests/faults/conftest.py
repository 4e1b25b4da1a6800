"""A run that nothing happened to, to compare with; and small disks."""

import gc
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from peftkit.pipeline import run

from .children import WORDS


@pytest.fixture(scope="session")
def alone(tmp_path_factory, tiny_model, reviews):
    """The words of a run, and the folder of one that was left alone; it is made here, so that forks are quick."""
    torch.set_num_threads(1)
    words = [
        f"model.path={tiny_model}",
        f"data.path={reviews}",
        "data.test_fraction=0.2",
        "train.max_length=256",
        *WORDS,
    ]
    folder = run("sentiment", words=words, out=tmp_path_factory.mktemp("alone") / "run").folder
    gc.freeze()  # a collection in a fork need not look at all that was imported
    return words, folder


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of a few bytes; give a function that does it."""
    mounted = []

    def mount(size: str, *options: str) -> Path:
        place = tmp_path / "disk"
        place.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", ",".join((f"size={size}", *options)), "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("no file system can be mounted here")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)
