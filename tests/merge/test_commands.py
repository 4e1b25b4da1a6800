"""`peftkit merge` and `peftkit verify` on the command line."""

import json

import pytest
from typer.testing import CliRunner

from peftkit.cli import app

from .bases import adapter, base

run = CliRunner().invoke


@pytest.fixture
def plain(tmp_path):
    of = base("llama")
    return of, adapter(of, tmp_path / "a", target_modules=["q_proj"])


def test_a_merge_says_what_it_did(plain, tmp_path):
    of, folder = plain
    done = run(app, ["merge", str(folder), str(tmp_path / "out"), "--base", str(of)])
    assert done.exit_code == 0, done.output
    assert "the proof holds" in done.output
    assert "2 tensors changed" in done.output
    assert "has no passport" in done.stderr
    again = run(app, ["verify", str(tmp_path / "out"), "--adapter", str(folder), "--base", str(of)])
    assert again.exit_code == 0
    assert "of the intended change 100.0% to 100.0% is there" in again.output


def test_json_alone_is_printed(plain, tmp_path):
    of, folder = plain
    words = [f"{folder}:0.5", f"{folder}:0.25", str(tmp_path / "out"), "--base", str(of), "--json", "--no-proof"]
    done = run(app, ["merge", *words])
    record = json.loads(done.stdout)
    assert [one["weight"] for one in record["adapters"]] == [0.5, 0.25]
    assert record["proof"] is None
    again = run(
        app,
        [
            *("verify", str(tmp_path / "out"), "--base", str(of), "--json"),
            *("--adapter", f"{folder}:0.5", "--adapter", f"{folder}:0.25"),
        ],
    )
    assert json.loads(again.stdout)["failures"] == []


def test_a_failed_proof_has_an_exit_code(plain, tmp_path):
    of, folder = plain
    done = run(app, ["verify", str(of), "--adapter", str(folder), "--base", str(of), "--json"])
    assert done.exit_code != 0
    assert json.loads(done.stdout)["failures"]
    assert "is not what base and adapter make" in str(done.exception)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["merge", "only"], 2, "give the adapter and then the new folder"),
        (["merge", "nowhere", "out"], 5, "there is no adapter folder 'nowhere'"),
        (["merge", "a:1e999", "out"], 2, "a weight that is not finite"),
        (["merge", "a", "out", "--onto", "both"], 2, "not one of original, trained"),
        (["verify", "nowhere", "--adapter", "a"], 4, "there is no folder"),
    ],
)
def test_mistakes_get_one_sentence(words, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(app, words)
    assert message in str(done.exception)
    assert done.exception.exit_code == code
    assert not list(tmp_path.iterdir())
