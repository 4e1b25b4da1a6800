"""What the README says: its Python example runs, its commands exist, its tables are those of the results."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from peftkit import pipeline
from peftkit.resolve import resolve

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_the_python_example_runs(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands, but on the tiny model and rows, so that it takes seconds."""
    run = pipeline.run

    def run_small(recipe: str, values: Any = None, **options: Any) -> pipeline.RunResult:
        return run(recipe, values, words=small, **options)

    monkeypatch.setattr(pipeline, "run", run_small)
    monkeypatch.chdir(tmp_path)
    (example,) = (block for block in blocks("python") if "from peftkit" in block)
    exec(compile(example, "README.md", "exec"), {})  # the README's own text
    difference, _answer = capsys.readouterr().out.split("\n")[:2]  # an untrained model may answer with nothing
    assert set(eval(difference)) == {"value", "low", "high", "n"}


def test_every_command_of_the_readme_is_one() -> None:
    lines = [line.split("#")[0].rstrip() for block in blocks("bash") for line in block.replace("\\\n", " ").split("\n")]
    commands = {
        tuple(words[1:3])
        for line in lines
        for part in re.split(r"&&|\|", line)
        if (words := shlex.split(part)) and words[0] == "peftkit"
    }
    verbs = {first for first, *_ in commands}
    assert {"run", "check", "predict", "eval", "recipes"} <= verbs
    shown = subprocess.run([sys.executable, "-m", "peftkit", "--help"], capture_output=True, text=True, check=True)
    assert all(re.search(rf"^  {verb} ", shown.stdout, flags=re.M) for verb in verbs)


def test_the_settings_of_the_readme_are_taken() -> None:
    for block in blocks("bash"):
        for line in block.replace("\\\n", " ").split("\n"):
            words = shlex.split(line.split(" #")[0])
            if words[:2] in (["peftkit", "run"], ["peftkit", "check"]) and not words[2].endswith((".py", ".yaml")):
                settings = [word for word in words[3:] if re.match(r"[a-z]+\.[\w.]+=", word)]
                assert resolve(words[2], words=settings).config


def test_the_tables_are_those_of_the_results() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "fill_readme.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
