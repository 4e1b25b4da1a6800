"""A mistake as a command line and how it must end: one sentence, the exit code of its kind, and nothing left behind."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

LONGEST = 400
BOX = str.maketrans(dict.fromkeys("╭─╮│╰╯", " "))  # typer frames what it says itself


@dataclass
class Place:
    """Where a case puts its files, and what it may use."""

    folder: Path
    model: Path
    reviews: Path
    run: Path | None = None

    def file(self, name: str, content: str | bytes = "") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def yaml(self, content: str | bytes) -> list[object]:
        return ["run", "sentiment", "--config", self.file("mine.yaml", content)]

    def check(self, *words: object, recipe: object = "sentiment") -> list[object]:
        """Words of a check that would succeed without the words added."""
        return ["check", recipe, *self.settings(), *words]

    def train(self, *words: object, recipe: object = "sentiment") -> list[object]:
        """Words of a short run that would succeed without the words added."""
        few = ("train.max_steps=1", "evaluate.max_rows=2", "evaluate.bootstrap_samples=5")
        return ["run", recipe, *self.settings(), *few, *words, "--out", "run"]

    def settings(self) -> list[str]:
        return [f"model.path={self.model}", f"data.path={self.reviews}", "train.max_length=256"]

    def rows(self, name: str, content: str | bytes, *words: object, recipe: object = "sentiment") -> list[object]:
        return self.check(f"data.path={self.file(name, content)}", *words, recipe=recipe)

    def good_rows(self) -> str:
        return self.reviews.read_text(encoding="utf-8")

    def changed_model(self, change: Callable[[Path], object]) -> Path:
        copy = self.folder / "model"
        shutil.copytree(self.model, copy)
        change(copy)
        return copy

    def changed_run(self, change: Callable[[Path], object]) -> Path:
        assert self.run is not None
        copy = self.folder / "copied"
        shutil.copytree(self.run, copy)
        change(copy)
        return copy


Argv = Callable[[Place], list[object]]


@dataclass(frozen=True)
class Case:
    """A command line, and how it ends."""

    name: str
    argv: Argv
    code: int
    says: tuple[str, ...]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: object
    out: str
    err: str

    @property
    def message(self) -> str:
        """What stands on the error stream, as one line."""
        return " ".join(self.err.translate(BOX).split())


Command = Callable[[list[object]], Ended]


def words(*all_words: object) -> Argv:
    return lambda place: [*all_words]


def checked(*settings: object, recipe: str = "sentiment") -> Argv:
    return lambda place: place.check(*settings, recipe=recipe)


def trained(*settings: object, recipe: str = "sentiment") -> Argv:
    return lambda place: place.train(*settings, recipe=recipe)


def row_file(name: str, content: str | bytes, *settings: object, recipe: str = "sentiment") -> Argv:
    return lambda place: place.rows(name, content, *settings, recipe=recipe)


def replace_text(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def edit_json(name: str, **values: object) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | values))


def table(*cases: Case) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name.replace(" ", "-")) for case in cases])


def check_case(case: Case, place: Place, command: Command) -> None:
    ended = command(case.argv(place))
    assert ended.code == case.code, ended.message
    for part in case.says:
        assert part in ended.message, ended.message
    assert "Traceback" not in ended.out + ended.err
    shown = ended.message
    for path in (place.folder, place.model, place.reviews.parent):
        shown = shown.replace(str(path), "")
    assert len(shown.replace("x" * 260, "")) <= LONGEST, shown
    assert list(Path.cwd().rglob("*")) == []
