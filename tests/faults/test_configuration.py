"""A configuration loads or is refused with one sentence, whatever stands in it; `proof_configuration` adds chance."""

import os

import pytest

from peftkit.errors import ConfigError
from peftkit.resolve import resolve

from .fuzzed_settings import outcome
from .hostile_yaml import LOADS, PAYLOADS


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
