"""Mistakes in the command line itself, in recipes, in configuration files and in the name of the output."""

import io
import sys

import pytest

from .exercise import Argv, Case, Command, Place, check_case, table, words


def in_file(content: str | bytes) -> Argv:
    return lambda place: place.yaml(content)


def recipe_file(content: str) -> Argv:
    return lambda place: ["run", place.file("mine.py", content)]


def folder_with_run(place: Place) -> list[object]:
    run = place.folder / "old"
    run.mkdir()
    (run / "config.yaml").touch()
    return ["run", "sentiment", "--out", run]


BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
)
RECIPE = (
    "from peftkit import Preset, Recipe\nrecipe = Recipe('mine', '', {columns}, {metrics}, {defaults}, {presets})\n"
)
TINY = "{'tiny': Preset('', 0, {})}"


def recipe(
    columns: object = {"text": (), "label": ()}, metrics: str = "()", defaults: object = {}, presets=TINY
) -> Argv:
    return recipe_file(RECIPE.format(columns=columns, metrics=metrics, defaults=defaults, presets=presets))


USAGE = [
    Case("unknown command", words("trian"), 2, ("No such command 'trian'",)),
    Case("unknown subcommand", words("recipes", "shw"), 2, ("No such command 'shw'",)),
    Case("missing argument", words("run"), 2, ("Missing argument 'RECIPE'",)),
    Case("missing text", words("predict", "folder"), 2, ("got 'folder' and no text", "give ADAPTER and then TEXT")),
    Case("unknown option", words("run", "sentiment", "--confg", "x"), 2, ("No such option: --confg", "--config")),
    Case("option without value", words("run", "sentiment", "--config"), 2, ("'--config' requires an argument",)),
    Case("value out of range", words("eval", "run", "--max-rows", "0"), 2, ("'--max-rows'", "or equal to 1")),
]

RECIPES = [
    Case("unknown recipe", words("run", "sentimnt"), 2, ("no recipe 'sentimnt'", "did you mean 'sentiment'?")),
    Case("recipe like none", words("run", "zzz"), 2, ("no recipe 'zzz'", "sentiment")),
    Case("empty recipe", words("run", ""), 2, ("no recipe is named", "`peftkit recipes`")),
    Case("unknown preset", words("run", "sentiment", "--preset", "7gb"), 2, ("no preset '7gb'", "tiny", "12gb")),
    Case("missing recipe file", words("run", "./nosuch.py"), 2, ("no recipe file 'nosuch.py'", "a .py file")),
    Case("folder as recipe", lambda place: ["run", place.folder], 2, ("is a folder, not a recipe file",)),
    Case("file of no recipe", recipe_file("x = 1"), 2, ("mine.py' does not define `recipe`", "Recipe(...)")),
    Case("syntax error", recipe_file("x = 1\ndef ("), 2, ("mine.py' cannot be loaded: SyntaxError", "line 2")),
    Case("missing import", recipe_file("import nosuch"), 2, ("cannot be loaded", "No module named 'nosuch'")),
    Case("script that exits", recipe_file("raise SystemExit(0)"), 2, ("mine.py' cannot be loaded: SystemExit",)),
    Case(
        "recipe without tiny",
        recipe(presets="{}"),
        2,
        ("recipe 'mine' has no preset 'tiny'",),
    ),
    Case(
        "recipe with an unknown key",
        recipe(defaults={"train": {"sed": 1}}),
        2,
        ("unknown key 'train.sed' (recipe)", "did you mean 'train.seed'?"),
    ),
    Case("unknown metric", recipe(metrics="('acuracy',)"), 2, ("no metric 'acuracy'", "accuracy, macro_f1")),
    Case(
        "metric of another kind",
        recipe(metrics="('pearson',)", defaults={"task": {"kind": "classification"}}),
        2,
        ("pearson", "task.kind=classification"),
    ),
    Case(
        "kind without its column",
        recipe(columns={"text": ()}, defaults={"task": {"kind": "classification"}}),
        2,
        ("task.kind=classification needs a column 'label', and recipe 'mine' has: text (recipe)",),
    ),
    Case(
        "recipe of an unknown kind",
        recipe(defaults={"task": {"kind": "tagging"}}),
        2,
        ("task.kind: 'tagging' is not one of 'generation', 'classification'", "(recipe)"),
    ),
    Case("show unknown", words("recipes", "show", "sentimnt"), 2, ("did you mean 'sentiment'?",)),
    Case(
        "copy onto a file",
        lambda place: ["recipes", "copy", "sentiment", place.file("old.yaml")],
        6,
        ("old.yaml' exists and is not written over", "another name"),
    ),
    Case("copy to another ending", words("recipes", "copy", "sentiment", "a.txt"), 2, ("'a.txt' must end in .yaml",)),
    Case(
        "copy to no folder", words("recipes", "copy", "sentiment", "no/a.yaml"), 6, ("'no/a.yaml' cannot be written",)
    ),
    Case(
        "copy under a file",
        lambda place: ["recipes", "copy", "sentiment", place.file("old") / "a.yaml"],
        6,
        ("a.yaml' cannot be written", "Not a directory"),
    ),
    Case(
        "copy to a long name",
        words("recipes", "copy", "sentiment", f"{'x' * 260}.yaml"),
        6,
        ("cannot be written: File name too long",),
    ),
]

FILES = [
    Case("no file", words("run", "sentiment", "--config", "no.yaml"), 2, ("no configuration file 'no.yaml'", "copy")),
    Case(
        "near file",
        lambda place: ["run", place.file("settings.yaml").with_name("setings.yaml")],
        2,
        ("no configuration file", "did you mean 'settings.yaml'?"),
    ),
    Case("folder", lambda place: ["run", "sentiment", "--config", place.folder], 2, ("is a folder; give a YAML file",)),
    Case("empty", in_file(""), 2, ("mine.yaml' holds no keys", "`train:`")),
    Case("list", in_file("- train"), 2, ("mine.yaml' holds no keys",)),
    Case("broken", in_file("train:\n  seed: [1\nmodel: x"), 2, ("mine.yaml' is not valid YAML: line 3",)),
    Case("tab", in_file("train:\n\tseed: 1"), 2, ("not valid YAML: line 2", "cannot start any token")),
    Case("key twice", in_file("train:\n  seed: 1\n  seed: 2"), 2, ("line 3: key 'seed' stands twice",)),
    Case("key of lists", in_file("? [a]\n: b"), 2, ("line 1: a key must be one word",)),
    Case("alias bomb", in_file(BOMB), 2, ("line 2: aliases are not allowed",)),
    Case("nested deeply", in_file("[" * 2000), 2, ("nested too deeply",)),
    Case(
        "tag",
        in_file("!!python/object:os.system x"),
        2,
        ("line 1: tags such as", "python/object:os.system' are not allowed"),
    ),
    Case("two documents", in_file("train:\n  seed: 1\n---\na: 1"), 2, ("line 3: but found another document",)),
    Case("not UTF-8", in_file(b"train: \xe4"), 2, ("mine.yaml' is not UTF-8 text (byte 7)", "save it as UTF-8")),
    Case("too large", in_file("#" * 65_537), 2, ("mine.yaml' is larger than 65,536 bytes",)),
    Case(
        "no recipe named",
        lambda place: ["run", place.file("a.yaml", "train: {}")],
        2,
        ("a.yaml' names no recipe", "sentiment`"),
    ),
    Case("recipe as number", in_file("recipe: 5"), 2, ("recipe: 5 is not usable: a name is expected",)),
    Case("preset as list", in_file("preset: [tiny]"), 2, ("preset: ['tiny'] is not usable",)),
    Case("unknown key in a file", in_file("train:\n  sed: 1"), 2, ("'train.sed'", "mine.yaml", "mean 'train.seed'?")),
    Case("group in a file", in_file("train: 5"), 2, ("'train'", "mine.yaml", "a group of keys")),
    Case("mapping for int", in_file("train:\n  seed: {a: 1}"), 2, ("train.seed: {'a': 1}", "whole number")),
    Case("bool for int", in_file("train:\n  max_steps: true"), 2, ("train.max_steps: True", "not true or false")),
    Case("bool for float", in_file("train:\n  learning_rate: true"), 2, ("train.learning_rate: True", "mine.yaml")),
    Case("bool for text", in_file("task:\n  labels: [true, x]"), 2, ("task.labels: True", "text", "put quotes")),
    Case("number for list", in_file("task:\n  labels: 5"), 2, ("task.labels: 5", "a list is expected")),
    Case("list for text", in_file("task:\n  prompt: [a]"), 2, ("task.prompt: ['a']", "text is expected")),
    Case("null in a file", in_file("model:\n  path:"), 2, ("model.path: null is not allowed", "mine.yaml")),
    Case(
        "two files",
        lambda place: ["run", place.file("a.yaml"), "--config", place.file("b.yaml")],
        2,
        ("two configuration files", "a.yaml", "b.yaml", "give one"),
    ),
]

OUTPUT = [
    Case("file as --out", lambda place: ["run", "sentiment", "--out", place.file("a")], 6, ("a' is a file", "--out")),
    Case("run as --out", folder_with_run, 6, ("old' holds a run and is never written over", "another one with --out")),
    Case(
        "folder with files as --out",
        lambda place: ["run", "sentiment", "--out", place.file("a").parent],
        6,
        ("is not empty and is never written over",),
    ),
    Case(
        "--out under a file",
        lambda place: ["run", "sentiment", "--out", place.file("a") / "run"],
        6,
        ("cannot be written: Not a directory", "--out"),
    ),
    Case("long --out", words("run", "sentiment", "--out", "x" * 300), 6, ("cannot be written: File name too long",)),
]


@table(*USAGE, *RECIPES, *FILES, *OUTPUT)
def test_mistake_before_anything_is_read(case: Case, place: Place, command: Command) -> None:
    check_case(case, place, command)


@pytest.mark.parametrize(("given", "code"), [(b"\n  \n", 3), (b"caf\xe9\n", 3)])
def test_standard_input_without_text(
    given: bytes, code: int, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
    ended = command(["predict", "nosuch", "-"])
    assert ended.code == code
    assert ("no text to answer" if given.isspace() else "standard input is not utf-8 text") in ended.err


def test_debug_shows_the_traceback_and_keeps_the_code(command: Command) -> None:
    ended = command(["--debug", "predict", "nosuch", "text"])
    assert ended.code == 5
    assert "Traceback" in ended.err
    assert ended.err.rstrip().endswith("AdapterError: there is no adapter folder 'nosuch'")
    assert "Traceback" not in command(["predict", "nosuch", "text"]).err


def test_a_mistake_is_told_on_the_error_stream_alone(command: Command) -> None:
    ended = command(["run", "sentiment", "train.max_steps=many", "--json"])
    assert ended.out == ""
    assert ended.err == "error: train.max_steps: 'many' is not usable: a whole number is expected (command line)\n"
