"""A configuration loads or is refused with one sentence, in little time and memory, whatever stands in it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from peftkit.errors import ConfigError
from peftkit.resolve import resolve

from .fuzzed_settings import outcome
from .hostile_yaml import LOADS, PAYLOADS

SECONDS, BYTES = 1.0, 100_000_000
FUZZ = Path(__file__).with_name("fuzzed_settings.py")


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_hostile_file_has_its_outcome(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    payload = PAYLOADS[name]
    path = tmp_path / "mine.yaml"
    path.write_bytes(payload.content)
    if payload.says == LOADS:
        assert outcome("sentiment", path, []) == "loads"
    else:
        with pytest.raises(ConfigError) as refused:
            resolve("sentiment" if b"recipe" not in payload.content else "", file=path)
        assert payload.says in str(refused.value)
    assert not (tmp_path / "ran").exists()


def test_plain_words_are_read_as_yaml_1_2_does(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(
        PAYLOADS["words for no"].content + b"\nmodel: {revision: 2026-01-01, chat_template_kwargs: {1: 017}}"
    )
    config = resolve("sentiment", file=path).config
    assert config.task.labels == ("yes", "no")
    assert config.model.revision == "2026-01-01"
    assert config.model.chat_template_kwargs == {"1": "017"}


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop"])
def test_what_is_no_file_is_refused_at_once(kind, tmp_path):
    path = tmp_path / "mine.yaml"
    {
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "device": lambda: path.symlink_to("/dev/zero"),
        "loop": lambda: path.symlink_to(path),
    }[kind]()
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        resolve("sentiment", file=path)


def test_a_file_cannot_choose_code_that_is_run(tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    path = tmp_path / "mine.yaml"
    path.write_text(f"recipe: {tmp_path / 'evil.py'}")
    with pytest.raises(ConfigError, match="cannot choose code that is run; if you trust it, name it yourself"):
        resolve(str(path))
    assert not (tmp_path / "ran").exists()


def resolved_in_a_process(folder: Path, first: int, last: int):
    command = [sys.executable, str(FUZZ), str(first), str(last), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("first", "last"), [(0, 400), *(pytest.param(n, n + 4000, marks=pytest.mark.slow) for n in range(0, 200_000, 4000))]
)
def test_settings_of_chance_load_or_are_refused(first, last, tmp_path):
    """A seed that fails is looked at alone with `python tests/faults/fuzzed_settings.py SEED SEED+1 FOLDER`."""
    found = resolved_in_a_process(tmp_path, first, last)
    assert found["bad"] == {}
    assert found["ended"]["loads"] > (last - first) // 10
    assert found["peak_bytes"] < BYTES


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")
def test_hostile_files_take_little_time_and_memory(tmp_path):
    """In one process that has read a good file before, and does nothing else; the time is that of the processor."""
    done = subprocess.run(
        [sys.executable, str(FUZZ), "payloads", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert {name for name, one in found.items() if one["seconds"] > SECONDS or one["bytes"] > BYTES} == set()
    assert len(found) == len(PAYLOADS)
