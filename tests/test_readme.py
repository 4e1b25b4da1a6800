"""README.md and docs: the example runs, commands parse, links lead somewhere, figures are those of the results."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from peftkit import pipeline
from peftkit.cli import app
from peftkit.resolve import resolve

ROOT = Path(__file__).parent.parent
README, *OTHERS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PAGES = {path: path.read_text(encoding="utf-8") for path in (README, *OTHERS)}
by_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def commands(text: str) -> list[list[str]]:
    """Every `peftkit` command of a page's code blocks, as words."""
    lines = [line.split(" #")[0] for one in blocks(text, "bash") for line in one.replace("\\\n", " ").split("\n")]
    words = [shlex.split(part) for line in lines for part in re.split(r"&&|\|", line)]
    return [one[1:] for one in words if one[:1] == ["peftkit"]]


def anchors(text: str) -> set[str]:
    """The anchors that a hub of repositories gives to a page's headings."""
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    heads = re.findall(r"^#+ (.*)$", prose, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def links(text: str) -> list[str]:
    """The targets of a page's links within the repository."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose) if not target.startswith("https://")]


def test_the_python_example_runs(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands, but on the tiny model and rows, so that it takes seconds."""
    run = pipeline.run

    def run_small(recipe: str, values: Any = None, **options: Any) -> pipeline.RunResult:
        return run(recipe, values, words=small, **options)

    monkeypatch.setattr(pipeline, "run", run_small)
    monkeypatch.chdir(tmp_path)
    (example,) = (one for text in PAGES.values() for one in blocks(text, "python") if "from peftkit" in one)
    exec(compile(example, "README.md", "exec"), {})  # the README's own text
    difference, _answer = capsys.readouterr().out.split("\n")[:2]  # an untrained model may answer with nothing
    assert set(eval(difference)) == {"value", "low", "high", "n"}


@by_page
def test_commands_and_their_options_are_those_of_the_command_line(path: Path) -> None:
    for words in commands(PAGES[path]):
        command, context, name, rest = get_command(app), None, "peftkit", list(words)
        while True:
            context = command.make_context(name, rest, parent=context)  # exits where words do not parse
            if not hasattr(command, "commands") or not (rest := [*context._protected_args, *context.args]):
                break
            name, command, rest = command.resolve_command(context, rest)


def test_every_command_is_in_the_table_and_no_other() -> None:
    table = PAGES[README].partition("\n## Commands\n")[2].partition("\n## ")[0]
    cells = [line.split(" | ")[0] for line in table.split("\n") if line.startswith("| `peftkit ")]
    said = {re.sub(r"^peftkit ", "", code).split(" ")[0] for cell in cells for code in re.findall(r"`([^`]+)`", cell)}
    inner = {"show", "compare", "check"}  # `bench show`, said without its first word
    assert said - inner == set(get_command(app).commands) - inner


@by_page
def test_the_settings_are_taken(path: Path) -> None:
    for verb, *words in commands(PAGES[path]):
        if verb in ("run", "check", "plan") and not words[0].endswith((".py", ".yaml")):
            settings = [word for word in words[1:] if re.match(r"[a-z]+\.[\w.]+=", word)]
            assert resolve(words[0], words=settings).config


@by_page
def test_links_lead_to_files_and_headings(path: Path) -> None:
    for target in links(PAGES[path]):
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found.read_text(encoding="utf-8")), target


def test_every_page_is_in_the_index_and_in_the_readme() -> None:
    index = ROOT / "docs" / "README.md"
    named = {path.name for path in OTHERS}
    assert {target for target in links(PAGES[index]) if "/" not in target} == named - {index.name}
    targets = [target.partition("#")[0] for target in links(PAGES[README])]
    assert {target for target in targets if target.startswith("docs/")} == {f"docs/{name}" for name in named}


def test_the_source_archive_has_what_the_readme_links_to() -> None:
    lines = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").split("\n")
    held = {word for line in lines for word in line.split(" ")[1:]}
    assert {target.partition("#")[0].split("/")[0] for target in links(PAGES[README])} - {""} <= held


@by_page
def test_prose_is_at_most_120_wide(path: Path) -> None:
    """Tables, and what is filled in from results, may be wider."""
    text = re.sub(r"(<!-- ([a-z-]+) -->).*?(<!-- /\2 -->)", "", PAGES[path], flags=re.S)
    assert not [line for line in text.split("\n") if len(line) > 120 and not line.startswith("|")]


def test_the_tables_are_those_of_the_results() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "fill_docs.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
