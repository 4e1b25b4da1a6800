"""A pickle is never unpickled, whatever it is called and wherever it lies."""

import json
import pickle
import shutil

import pytest
from typer.testing import CliRunner

from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
from peftkit.cli import app
from peftkit.errors import AdapterError

from ..merge.adapters import make_adapter

NAMES = (
    "adapter_model.bin",
    "adapter_model.pt",
    "adapter_model.pth",
    "adapter_model.ckpt",
    "adapter_model.pkl",
    "pytorch_model.bin",
    "optimizer.pt",
    "training_args.bin",
    "rng_state.pth",
    WEIGHTS,
    PEFT_CONFIG,
    "peftkit.json",
    "README.md",
    "tokenizer.json",
    "tokenizer.model",
)
READ = (WEIGHTS, PEFT_CONFIG, "peftkit.json")
"""Those that every command reads, and must refuse."""


class Runs:
    """Makes a file where it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "ran"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "words", [["merge", "A", "out", "--no-proof"], ["diff", "A", "A"], ["pack", "A", "o.peft.zip"]]
)
def test_a_pickle_is_not_run(tiny_model, tmp_path, monkeypatch, mark, name, words):
    monkeypatch.chdir(tmp_path)
    folder = make_adapter(tiny_model, tmp_path / "A")
    (folder / name).write_bytes(pickle.dumps(Runs(mark)))
    done = CliRunner().invoke(app, [str(folder) if word == "A" else word for word in words])
    assert not mark.exists()
    if name in READ:
        assert isinstance(done.exception, AdapterError), done.output
        assert "damaged" in str(done.exception)
    elif done.exit_code:
        assert isinstance(done.exception, AdapterError), done.output
        assert name in str(done.exception)


@pytest.mark.parametrize("name", NAMES[:9])
def test_a_pickle_in_place_of_weights_is_no_adapter(tiny_model, tmp_path, mark, name):
    folder = make_adapter(tiny_model, tmp_path / "A")
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps(Runs(mark)))
    done = CliRunner().invoke(app, ["merge", str(folder), str(tmp_path / "out"), "--base", str(tiny_model)])
    assert not mark.exists()
    assert f"it has no {WEIGHTS}" in str(done.exception)


def test_the_pickle_would_run(mark):
    pickle.loads(pickle.dumps(Runs(mark)))
    assert mark.exists()


def test_a_recipe_file_that_a_passport_names_is_not_run(runs, tmp_path, mark):
    folder = tmp_path / "A"
    shutil.copytree(runs[0] / "adapter", folder)
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')")
    passport = json.loads((folder / "peftkit.json").read_text())
    passport["config"]["recipe"] = str(folder / "evil.py")
    (folder / "peftkit.json").write_text(json.dumps(passport))
    done = CliRunner().invoke(app, ["merge", str(folder), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    shrunk = CliRunner().invoke(app, ["shrink", str(folder), str(tmp_path / "small"), "--rank", "auto"])
    assert shrunk.exit_code == 0, shrunk.output
    assert "is not run for an adapter" in shrunk.stderr
    assert not mark.exists()
