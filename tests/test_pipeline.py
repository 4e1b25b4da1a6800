"""The path as a whole: what is left when it fails, and that a run says the same twice."""

import json
from pathlib import Path

import pytest

from peftkit import check, run
from peftkit.errors import DataError, NotFiniteError
from peftkit.ui import UI


def test_a_run_that_fails_before_training_gives_its_folder_back(small: list[str], tmp_path: Path) -> None:
    out = tmp_path / "mine"
    with pytest.raises(DataError, match="no-such-file"):
        run("sentiment", words=[*small, "data.path=no-such-file.csv"], out=out)
    assert not out.exists()
    assert run("sentiment", words=small, out=out).folder == out


@pytest.mark.parametrize("place", ["peftkit.screen.show_start", "peftkit.model.load.load_model"])
def test_a_bug_before_training_gives_the_folder_back_too(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def broken(*_: object) -> None:
        assert (tmp_path / "mine" / "config.yaml").is_file()
        raise ZeroDivisionError

    monkeypatch.setattr(place, broken)
    with pytest.raises(ZeroDivisionError):
        run("sentiment", words=small, out=tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_put_into_the_folder_meanwhile_stays(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        (tmp_path / "mine" / "notes.txt").write_text("mine")
        raise ZeroDivisionError

    monkeypatch.setattr("peftkit.model.load.load_model", broken)
    with pytest.raises(ZeroDivisionError):
        run("sentiment", words=small, out=tmp_path / "mine")
    assert [one.name for one in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_failed_run_without_a_name_leaves_nothing(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        run("sentiment", words=[*small, "data.path=no-such-file.csv"])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_else_is_not_removed(small: list[str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError):
        run("sentiment", words=[*small, "data.path=no-such-file.csv"], out=tmp_path / "mine")
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_that_fails_in_training_keeps_its_folder(small: list[str], tmp_path: Path) -> None:
    out = tmp_path / "mine"
    with pytest.raises(NotFiniteError, match=r"^step \d+ is not finite"):
        run("sentiment", words=[*small, "train.learning_rate=1e30", "train.max_grad_norm=0"], out=out)
    assert {"config.yaml", "data.json", "metrics.jsonl"} <= {entry.name for entry in out.iterdir()}
    assert not (out / "adapter").exists()


def test_the_same_run_twice_gives_the_same_adapter_and_metrics(small: list[str], tmp_path: Path) -> None:
    first, second = (run("sentiment", words=small, out=tmp_path / name) for name in ("first", "second"))
    for part in ("before", "after", "difference", "mcnemar"):
        assert first.summary[part] == second.summary[part]
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
        assert (first.adapter / name).read_bytes() == (second.adapter / name).read_bytes()
    losses = [
        [json.loads(line)["loss"] for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
        for result in (first, second)
    ]
    assert losses[0] == losses[1]


def test_without_evaluation_there_is_still_a_whole_run(small: list[str], tmp_path: Path) -> None:
    result = run("sentiment", words=[*small, "evaluate.max_rows=0"], out=tmp_path / "mine")
    assert result.summary["after"] == {}
    assert (result.folder / "report.html").stat().st_size > 10_000


def test_few_or_no_held_out_rows_are_a_warning(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.dumps({"text": f"film number {n} of {n * 7919}", "label": "positive"}) + "\n" for n in range(40)]
    few = tmp_path / "few.jsonl"
    few.write_text("".join(rows), encoding="utf-8")
    for share, warning in (("0", "no held-out rows"), ("0.3", "held-out rows: intervals will be wide")):
        check("sentiment", words=[*small, f"data.path={few}", f"data.test_fraction={share}"], ui=UI())
        said = capsys.readouterr().err
        assert warning in said
        assert "no training row has the label 'negative'" in said
    check("sentiment", words=[*small, "evaluate.max_rows=0"], ui=UI())
    assert capsys.readouterr().err == ""
