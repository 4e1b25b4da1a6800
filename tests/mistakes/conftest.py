"""A command line that runs in this process, and a place for the files of a mistake."""

import sys
from pathlib import Path

import pytest

from peftkit import cli

from .exercise import Command, Ended, Place


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in this process, in an empty folder."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def run(argv: list[object]) -> Ended:
        monkeypatch.setattr(sys, "argv", ["peftkit", *map(str, argv)])
        capsys.readouterr()
        code: object = 0
        try:
            cli.main()
        except SystemExit as left:
            code = left.code
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path, reviews: Path) -> Place:
    folder = tmp_path / "files"
    folder.mkdir()
    return Place(folder, tiny_model, reviews)
