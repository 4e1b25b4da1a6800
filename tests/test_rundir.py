"""Files of a run are whole or as they were, and no folder with work in it is written over."""

import json
import os
from datetime import datetime

import pytest

from peftkit.errors import OutputError
from peftkit.rundir import (
    RunFolder,
    append_lines,
    atomic,
    atomic_folder,
    read_json,
    write_json,
    write_lines,
    write_text,
)

NOW = datetime(2026, 1, 2, 3, 4, 5)


def full_disk(*_):
    raise OSError(28, "No space left on device")


def test_a_file_is_written_with_its_text_and_nothing_beside_it(tmp_path):
    write_text(tmp_path / "a.txt", "zwölf\nZeilen\n")
    assert (tmp_path / "a.txt").read_bytes() == "zwölf\nZeilen\n".encode()
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OutputError, match=r"a\.json' cannot be written: No space left on device"):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def half_write(path):
    with atomic(path) as temporary:
        temporary.write_bytes(b"ne")
        assert path.read_bytes() == b"old"
        raise KeyboardInterrupt


def test_a_write_that_is_broken_off_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        half_write(path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", [1])
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", [float("nan")])
    assert read_json(tmp_path / "a.json") == [1]


def test_lines_are_strict_json_too(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_lines(tmp_path / "a.jsonl", [{"score": float("nan")}])
    assert list(tmp_path.iterdir()) == []


def test_rows_that_fail_on_the_way_leave_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_lines(tmp_path / "a.jsonl", (1 / (2 - number) for number in range(3)))
    assert list(tmp_path.iterdir()) == []


def test_lines_are_one_value_each(tmp_path):
    path = tmp_path / "a.jsonl"
    write_lines(path, [{"a": "ü\n"}, [1]])
    append_lines(path, [{"b": None}])
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == [{"a": "ü\n"}, [1], {"b": None}]
    assert path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize("content", [None, b"{", b"\xff"])
def test_a_file_that_is_absent_or_damaged_is_an_output_error(tmp_path, content):
    path = tmp_path / "summary.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OutputError, match=r"summary\.json'"):
        read_json(path)


def test_an_empty_folder_is_taken_and_parents_are_made(tmp_path):
    (tmp_path / "empty").mkdir()
    assert RunFolder.create(tmp_path / "empty", "sentiment", NOW).path == tmp_path / "empty"
    made = RunFolder.create(tmp_path / "x" / "y", "sentiment", NOW)
    assert made.path.is_dir()
    assert list(made.path.iterdir()) == []
    assert made.summary == made.path / "summary.json"


def test_what_a_run_left_that_was_killed_at_once_is_nothing(tmp_path):
    (tmp_path / ".config.yaml.tmp-123").write_text("recipe:")
    run = RunFolder.create(tmp_path, "sentiment", NOW)
    run.take_away_leftovers()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "message"), [("config.yaml", "holds a run"), ("thesis.docx", "is not empty")])
def test_a_folder_that_holds_work_is_refused(tmp_path, name, message):
    (tmp_path / name).write_text("work")
    with pytest.raises(OutputError, match=message):
        RunFolder.create(tmp_path, "sentiment", NOW)
    assert (tmp_path / name).read_text() == "work"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("work")
    for path in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(OutputError, match="file"):
            RunFolder.create(path, "sentiment", NOW)


def test_runs_of_one_second_get_names_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [RunFolder.create(None, "sentiment", NOW).path.name for _ in range(3)]
    assert names == [f"sentiment-20260102-030405{end}" for end in ("", "-2", "-3")]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == names


def test_a_run_is_opened_by_its_folder_alone(tmp_path):
    with pytest.raises(OutputError, match=r"holds no run \(it has no config\.yaml\)"):
        RunFolder.open(tmp_path)
    (tmp_path / "config.yaml").write_text("recipe: sentiment\n")
    assert RunFolder.open(tmp_path).config == tmp_path / "config.yaml"


def fill(path, error=None):
    with atomic_folder(path) as folder:
        (folder / "a").touch()
        assert not path.exists()
        if error:
            raise error


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    out = tmp_path / "deep" / "out"
    for error, seen in ((KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left"), OutputError)):
        with pytest.raises(seen):
            fill(out, error)
        assert list((tmp_path / "deep").iterdir()) == []
    fill(out)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "deep", out, out / "a"]


def test_a_folder_is_never_written_over(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(OutputError, match=r"out' exists and is not written over"), atomic_folder(out):
        out.mkdir()
    assert list(tmp_path.iterdir()) == [out]
    with pytest.raises(OutputError, match=r"out' exists and is not written over"):
        fill(out)
    assert list(tmp_path.rglob("*")) == [out]


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        fill(tmp_path / "file" / "out")
