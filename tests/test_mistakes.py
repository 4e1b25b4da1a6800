"""Every mistake on the command line ends with one sentence and the exit code of its kind, and leaves nothing behind."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from peftkit import cli

LONGEST = 400
BOX = str.maketrans(dict.fromkeys("╭─╮│╰╯", " "))  # typer frames what it says itself
FEW = 4


@dataclass
class Place:
    """Where a case puts its files, and what it may use."""

    folder: Path
    model: Path
    reviews: Path
    run: Path | None = None

    def file(self, name: str, content: str | bytes = "") -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def yaml(self, content: str | bytes) -> list[object]:
        return ["run", "sentiment", "--config", self.file("mine.yaml", content)]

    def check(self, *words: object) -> list[object]:
        """Words of a check that would succeed without the words added."""
        return [
            "check",
            "sentiment",
            f"model.path={self.model}",
            f"data.path={self.reviews}",
            "train.max_length=256",
            *words,
        ]

    def rows(self, name: str, content: str | bytes, *words: object) -> list[object]:
        return self.check(f"data.path={self.file(name, content)}", *words)

    def good_rows(self) -> str:
        return self.reviews.read_text(encoding="utf-8")

    def changed_model(self, change: Callable[[Path], object]) -> list[object]:
        copy = self.folder / "model"
        shutil.copytree(self.model, copy)
        change(copy)
        return self.check(f"model.path={copy}")

    def changed_run(self, change: Callable[[Path], object]) -> Path:
        assert self.run is not None
        copy = self.folder / "copied"
        shutil.copytree(self.run, copy)
        change(copy)
        return copy


@dataclass(frozen=True)
class Case:
    """A command line, and how it ends."""

    name: str
    argv: Callable[[Place], list[object]]
    code: int
    says: tuple[str, ...]


def word(setting: str) -> Callable[[Place], list[object]]:
    return lambda place: ["run", "sentiment", setting]


def words(*all_words: object) -> Callable[[Place], list[object]]:
    return lambda place: [*all_words]


def in_file(content: str | bytes) -> Callable[[Place], list[object]]:
    return lambda place: place.yaml(content)


def recipe_file(content: str) -> Callable[[Place], list[object]]:
    return lambda place: ["run", place.file("mine.py", content)]


def replace_text(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def edit_json(name: str, **values: object) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | values))


def folder_with_run(place: Place) -> list[object]:
    run = place.folder / "old"
    run.mkdir()
    (run / "config.yaml").touch()
    return ["run", "sentiment", "--out", run]


BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
)
LINE = '{"text": "good film", "label": "positive"}\n'
BAD_LINE = '{"text": "good film", "label": \n'
RECIPE = "from peftkit import Preset, Recipe\nrecipe = Recipe('mine', '', {columns}, (), {defaults}, {presets})\n"
TINY = "{'tiny': Preset('', 0, {})}"

USAGE = [
    Case("unknown command", words("trian"), 2, ("No such command 'trian'",)),
    Case("unknown subcommand", words("recipes", "shw"), 2, ("No such command 'shw'",)),
    Case("missing argument", words("run"), 2, ("Missing argument 'RECIPE'",)),
    Case("missing text", words("predict", "folder"), 2, ("Missing argument 'TEXT...'",)),
    Case("unknown option", words("run", "sentiment", "--confg", "x"), 2, ("No such option: --confg", "--config")),
    Case("option without value", words("run", "sentiment", "--config"), 2, ("'--config' requires an argument",)),
    Case("value out of range", words("eval", "run", "--max-rows", "0"), 2, ("'--max-rows'", "or equal to 1")),
]

SETTINGS = [
    Case("unknown key", word("train.learning_rte=1"), 2, ("'train.learning_rte'", "mean 'train.learning_rate'?")),
    Case("key of another group", word("train.use_dora=1"), 2, ("'train.use_dora'", "mean 'adapter.use_dora'?")),
    Case("unknown group", word("trian.seed=1"), 2, ("'trian.seed'", "did you mean 'train.seed'?")),
    Case("key like none", word("zzz.yyy=1"), 2, ("'zzz.yyy'", "`peftkit recipes show NAME` lists all keys")),
    Case("key without group", word("max_steps=1"), 2, ("'max_steps'", "did you mean 'train.max_steps'?")),
    Case("group as key", word("train=1"), 2, ("'train'", "a group of keys, such as train.learning_rate")),
    Case("names left out", word("data.columns=text"), 2, ("'data.columns'", "written as data.columns.NAME")),
    Case("preset as key", word("preset=12gb"), 2, ("'preset'", "--preset")),
    Case("recipe as key", word("recipe=other"), 2, ("'recipe'", "the first argument")),
    Case("word without sign", word("train.max_steps"), 2, ("'train.max_steps' is not a setting", "key=value")),
    Case("word without key", word("=1"), 2, ("'=1' is not a setting",)),
    Case("text for int", word("train.max_steps=many"), 2, ("train.max_steps: 'many'", "whole number", "command line")),
    Case("fraction for int", word("train.max_steps=1.5"), 2, ("train.max_steps: '1.5'", "whole number")),
    Case("text for float", word("train.learning_rate=fast"), 2, ("train.learning_rate: 'fast'", "a number")),
    Case("nothing for float", word("train.learning_rate="), 2, ("train.learning_rate: ''", "a number")),
    Case("text for bool", word("adapter.use_dora=maybe"), 2, ("adapter.use_dora: 'maybe'", "true or false")),
    Case("not a number", word("train.learning_rate=nan"), 2, ("train.learning_rate: 'nan'", "greater than")),
    Case("infinite", word("train.learning_rate=inf"), 2, ("train.learning_rate: 'inf'", "finite")),
    Case("negative int", word("train.max_steps=-1"), 2, ("train.max_steps: '-1'", "or equal to 0")),
    Case("negative float", word("train.learning_rate=-1"), 2, ("train.learning_rate: '-1'", "or equal to 0")),
    Case("rank of zero", word("adapter.r=0"), 2, ("adapter.r: '0'", "or equal to 1")),
    Case("no epochs", word("train.num_train_epochs=0"), 2, ("train.num_train_epochs: '0'", "greater than 0")),
    Case("seed too large", word("train.seed=4294967296"), 2, ("train.seed: '4294967296'", "less than 4294967296")),
    Case("dropout of all", word("adapter.lora_dropout=1"), 2, ("adapter.lora_dropout: '1'", "less than 1")),
    Case(
        "null", word("train.learning_rate=null"), 2, ("train.learning_rate: null is not allowed", "leave the key out")
    ),
    Case("quantization", word("model.quantization=nf5"), 2, ("'nf5' is not one of 'none'", "mean 'nf4'?")),
    Case("enum", word("data.on_bad_row=ignore"), 2, ("data.on_bad_row: 'ignore' is not one of 'error', 'skip'",)),
    Case("fractions", word("data.test_fraction=0.99"), 2, ("data.test_fraction", "no rows to train on (command line)")),
    Case("list as broken JSON", word("task.labels=[a"), 2, ("task.labels: '[a' is not valid JSON", "character 1")),
    Case("one label", word("task.labels=positive"), 2, ("task.labels", "at least two different")),
    Case("labels twice", word("task.labels=good,bad,Good"), 2, ("task.labels", "at least two different")),
    Case("empty label", word("task.labels=good,,bad"), 2, ("task.labels", "non-empty labels")),
    Case("label name", word("data.label_names.1=posi"), 2, ("data.label_names.1: 'posi'", "negative, positive (comm")),
    Case("column of no use", word("data.columns.txt=a"), 2, ("data.columns.txt", "text, label", "mean 'text'?")),
    Case("placeholder", word("task.prompt={txt}"), 2, ("task.prompt: {txt} is no column", "mean 'text'?")),
    Case("answer's placeholder", word("task.completion={lable}"), 2, ("task.completion: {lable}", "mean 'label'?")),
    Case("no placeholder", word("task.prompt=Good?"), 2, ("task.prompt: 'Good?' holds no column", "text, label")),
    Case("answer in prompt", word("task.prompt={text} {label}"), 2, ("task.prompt", "would be shown the answer")),
    Case("optimizer", word("train.optim=adamw_torh"), 2, ("train.optim: 'adamw_torh'", "mean 'adamw_torch'?")),
    Case("schedule", word("train.lr_scheduler_type=cosin"), 2, ("train.lr_scheduler_type: 'cosin'", "mean 'cosine'?")),
    Case("adapter.extra", word("adapter.extra.rnk=1"), 2, ("adapter.extra.rnk is not an argument", "LoraConfig")),
    Case("train.extra", word("train.extra.lerning=1"), 2, ("train.extra.lerning is not an argument", "SFTConfig")),
    Case("extra of a key", word("train.extra.seed=1"), 2, ("train.extra.seed", "set train.seed (command line)")),
    Case("extra that TRL refuses", word("train.extra.eval_strategy=often"), 2, ("settings are refused: often is not",)),
    Case(
        "remote code", word("model.extra.trust_remote_code=true"), 2, ("trust_remote_code is refused", "leave it out")
    ),
]

RECIPES = [
    Case("unknown recipe", words("run", "sentimnt"), 2, ("no recipe 'sentimnt'", "did you mean 'sentiment'?")),
    Case("recipe like none", words("run", "zzz"), 2, ("no recipe 'zzz'", "sentiment")),
    Case("empty recipe", words("run", ""), 2, ("no recipe is named", "`peftkit recipes`")),
    Case("unknown preset", words("run", "sentiment", "--preset", "7gb"), 2, ("no preset '7gb'", "tiny, 12gb")),
    Case("missing recipe file", words("run", "./nosuch.py"), 2, ("no recipe file 'nosuch.py'", "a .py file")),
    Case("folder as recipe", lambda place: ["run", place.folder], 2, ("is a folder, not a recipe file",)),
    Case("file of no recipe", recipe_file("x = 1"), 2, ("mine.py' does not define `recipe`", "Recipe(...)")),
    Case("syntax error", recipe_file("x = 1\ndef ("), 2, ("mine.py' cannot be loaded: SyntaxError", "line 2")),
    Case("missing import", recipe_file("import nosuch"), 2, ("cannot be loaded", "No module named 'nosuch'")),
    Case("script that exits", recipe_file("raise SystemExit(0)"), 2, ("mine.py' cannot be loaded: SystemExit",)),
    Case(
        "recipe without tiny",
        recipe_file(RECIPE.format(columns={"text": ()}, defaults={}, presets={})),
        2,
        ("recipe 'mine' has no preset 'tiny'",),
    ),
    Case(
        "recipe with an unknown key",
        recipe_file(RECIPE.format(columns={"text": ()}, defaults={"train": {"sed": 1}}, presets=TINY)),
        2,
        ("unknown key 'train.sed' (recipe)", "did you mean 'train.seed'?"),
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
    Case("folder", lambda place: ["run", "sentiment", "--config", place.folder], 2, ("Is a directory",)),
    Case("empty", in_file(""), 2, ("mine.yaml' holds no keys", "`train:`")),
    Case("list", in_file("- train"), 2, ("mine.yaml' holds no keys",)),
    Case("broken", in_file("train:\n  seed: [1\nmodel: x"), 2, ("mine.yaml' is not valid YAML: line 3",)),
    Case("tab", in_file("train:\n\tseed: 1"), 2, ("not valid YAML: line 2", "cannot start any token")),
    Case("key twice", in_file("train:\n  seed: 1\n  seed: 2"), 2, ("line 3: key 'seed' stands twice",)),
    Case("key of lists", in_file("? [a]\n: b"), 2, ("line 1: a key must be one word",)),
    Case("alias bomb", in_file(BOMB), 2, ("line 2: aliases are not allowed",)),
    Case("nested deeply", in_file("[" * 2000), 2, ("nested too deeply",)),
    Case("tag", in_file("!!python/object:os.system x"), 2, ("line 1: could not determine a constructor",)),
    Case("two documents", in_file("train:\n  seed: 1\n---\na: 1"), 2, ("line 3: but found another document",)),
    Case("not UTF-8", in_file(b"train: \xe4"), 2, ("mine.yaml' is not UTF-8 text (byte 7)", "save it as UTF-8")),
    Case("too large", in_file("#" * 1_000_001), 2, ("mine.yaml' is larger than 1,000,000 bytes",)),
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
    Case("list for text", in_file("data:\n  path: [a]"), 2, ("data.path: ['a']", "text is expected")),
    Case("null in a file", in_file("model:\n  path:"), 2, ("model.path: null is not allowed", "mine.yaml")),
    Case(
        "two files",
        lambda place: ["run", place.file("a.yaml"), "--config", place.file("b.yaml")],
        2,
        ("two configuration files", "a.yaml", "b.yaml", "give one"),
    ),
]

DATA = [
    Case(
        "near name", lambda place: place.check(f"data.path={place.reviews}l"), 3, ("is not there", "'reviews.jsonl'?")
    ),
    Case(
        "no data file", lambda place: place.check("data.path=no/rows.csv"), 3, ("no/rows.csv is not there", "data.path")
    ),
    Case("folder as data", lambda place: place.check(f"data.path={place.folder}"), 3, ("is a folder", "one data file")),
    Case("empty file", lambda place: place.rows("a.csv", ""), 3, ("a.csv is empty", "header")),
    Case("header only", lambda place: place.rows("a.csv", "text,label\n"), 3, ("a.csv has a header but no rows",)),
    Case("ending", lambda place: place.rows("a.xlsx", "x"), 3, ("a.xlsx is in no format", ".jsonl", ".csv")),
    Case("zip", lambda place: place.rows("a.csv", b"PK\x03\x04"), 3, ("a.csv is a zip or Excel file",)),
    Case(
        "missing column",
        lambda place: place.rows("a.csv", "a,label\nx,positive\n"),
        3,
        ("known as 'text'", "'a', 'label'", "data.columns.text="),
    ),
    Case(
        "ambiguous columns",
        lambda place: place.rows("a.csv", "body,review,label\nx,y,positive\n"),
        3,
        ("'body' or 'review'", "data.columns.text=body"),
    ),
    Case(
        "wrong column", lambda place: place.check("data.columns.text=txt"), 3, ("data.columns.text=txt", "mean 'text'")
    ),
    Case(
        "unknown label",
        lambda place: place.rows("a.csv", "text,label\nx,pos\n"),
        3,
        ("a.csv:2, column 'label': 'pos'", "negative, positive", "data.label_names.pos="),
    ),
    Case(
        "empty text",
        lambda place: place.rows("a.csv", "text,label\nx,positive\n ,positive\n"),
        3,
        ("a.csv:3, column 'text': empty", "data.on_bad_row=skip"),
    ),
    Case(
        "null text",
        lambda place: place.rows("a.jsonl", LINE + LINE.replace('"good film"', "null")),
        3,
        ("a.jsonl:2, column 'text': missing",),
    ),
    Case(
        "nested text",
        lambda place: place.rows("a.jsonl", LINE.replace('"good film"', '{"a": 1}')),
        3,
        ("a.jsonl:1, column 'text': an object, not text",),
    ),
    Case(
        "bad rows",
        lambda place: place.rows("a.jsonl", LINE + BAD_LINE * 3),
        3,
        ("a.jsonl:2: not JSON", "(and 2 more)", "data.on_bad_row=skip"),
    ),
    Case(
        "too many bad rows",
        lambda place: place.rows("a.jsonl", BAD_LINE * 60 + place.good_rows(), "data.on_bad_row=skip"),
        3,
        ("60 of 300 rows are bad (20.0%)", "data.max_bad_fraction=0.01", "mend them or raise it", "a.jsonl:1"),
    ),
    Case(
        "all rows bad",
        lambda place: place.rows("a.jsonl", BAD_LINE * 3, "data.on_bad_row=skip", "data.max_bad_fraction=1"),
        3,
        ("none of 3 rows can be used", "a.jsonl:1: not JSON"),
    ),
    Case(
        "no training rows",
        lambda place: place.rows("a.jsonl", LINE, "data.test_fraction=0.999", "data.validation_fraction=0"),
        3,
        ("no training rows are left of 1", "data.test_fraction"),
    ),
    Case(
        "overlap",
        lambda place: place.check(f"data.test_path={place.file('held.jsonl', place.good_rows().splitlines()[0])}"),
        3,
        ("1 held-out rows also stand among the training rows", "held.jsonl:1 is reviews.jsonl:"),
    ),
    Case(
        "too short",
        lambda place: place.check("train.max_length=20"),
        3,
        ("the prompt needs 106 tokens", "the answer 9", "raise train.max_length"),
    ),
]

MODELS = [
    Case(
        "no config.json",
        lambda place: place.changed_model(lambda folder: (folder / "config.json").unlink()),
        4,
        ("holds no model", "no config.json", "tokenizer.json"),
    ),
    Case(
        "only .bin",
        lambda place: place.changed_model(lambda folder: (folder / "model.safetensors").rename(folder / "model.bin")),
        4,
        ("holds no .safetensors weights",),
    ),
    Case(
        "broken config.json",
        lambda place: place.changed_model(replace_text("config.json", "{")),
        4,
        ("config.json is damaged", "line 1"),
    ),
    Case(
        "config.json of a list",
        lambda place: place.changed_model(replace_text("config.json", "[]")),
        4,
        ("model' cannot be loaded",),
    ),
    Case(
        "no tokenizer",
        lambda place: place.changed_model(lambda folder: (folder / "tokenizer.json").unlink()),
        4,
        ("the tokenizer in", "cannot be loaded"),
    ),
    Case(
        "broken template",
        lambda place: place.changed_model(replace_text("chat_template.jinja", "{% if %}")),
        2,
        ("the chat template of", "Expected an expression"),
    ),
    Case("no path", lambda place: place.check("model.path=./nosuch"), 4, ("'./nosuch' is no model", "a hub id")),
    Case("file as model", lambda place: place.check(f"model.path={place.reviews}"), 4, ("is no model", "config.json")),
    Case("no GGUF", lambda place: place.check("model.path=no.gguf"), 4, ("no GGUF file 'no.gguf'",)),
    Case(
        "text as GGUF",
        lambda place: place.check(f"model.path={place.file('a.gguf', 'hello')}"),
        4,
        ("a.gguf is not a GGUF file",),
    ),
    Case(
        "hub out of reach",
        lambda place: place.check("model.path=nobody/nothing"),
        4,
        ("'nobody/nothing'", "check the name and the network", "HF_HUB_OFFLINE"),
    ),
    Case("long path", lambda place: place.check(f"model.path={'x' * 300}"), 4, ("is no model",)),
    Case(
        "unknown layers",
        lambda place: [
            "run",
            *place.check("adapter.target_modules=attention", "evaluate.max_rows=4")[1:],
            "--out",
            "run",
        ],
        2,
        ("adapter.target_modules=attention", "not found in the base model"),
    ),
    Case(
        "cut weights",
        lambda place: [
            "run",
            *place.changed_model(cut("model.safetensors", 2000))[1:],
            "--out",
            "run",
        ],
        4,
        ("the model in", "cannot be loaded"),
    ),
    Case(
        "weights of other shapes",
        lambda place: [
            "run",
            *place.changed_model(edit_json("config.json", hidden_size=32))[1:],
            "--out",
            "run",
        ],
        4,
        ("the model in", "cannot be loaded"),
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

TRAINED = [
    Case("no adapter folder", words("predict", "nosuch", "text"), 5, ("no adapter folder 'nosuch'",)),
    Case("text as adapter", words("predict", "x" * 300, "text"), 5, ("no adapter folder",)),
    Case("no passport", lambda place: ["predict", place.folder, "text"], 5, ("has no passport (peftkit.json)",)),
    Case("empty text", lambda place: ["predict", place.run, " "], 3, ("no text to answer", "give one")),
    Case(
        "changed weights",
        lambda place: ["predict", place.changed_run(cut("adapter/adapter_model.safetensors", 999)), "text"],
        5,
        ("adapter_model.safetensors' was changed", "fetch the adapter again"),
    ),
    Case(
        "lost weights",
        lambda place: [
            "predict",
            place.changed_run(lambda run: (run / "adapter/adapter_model.safetensors").unlink()),
            "text",
        ],
        5,
        ("lacks adapter_model.safetensors",),
    ),
    Case(
        "cut passport",
        lambda place: ["predict", place.changed_run(cut("adapter/peftkit.json", 200)), "text"],
        5,
        ("peftkit.json' is damaged",),
    ),
    Case("eval without a run", lambda place: ["eval", place.folder], 6, ("holds no run", "config.yaml")),
    Case("eval of a long path", words("eval", "x" * 300), 6, ("cannot be read: File name too long",)),
    Case("bad split", lambda place: ["eval", place.run, "--split", "train"], 2, ("--split train", "test, validation")),
    Case(
        "run without its adapter",
        lambda place: ["eval", place.changed_run(lambda run: shutil.rmtree(run / "adapter"))],
        5,
        ("no adapter folder", "copied/adapter"),
    ),
    Case(
        "run with a broken configuration",
        lambda place: ["eval", place.changed_run(replace_text("config.yaml", "a: ["))],
        2,
        ("config.yaml' is not valid YAML: line 1",),
    ),
]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: object
    out: str
    err: str


Command = Callable[[list[object]], Ended]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in this process, in an empty folder."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def run(argv: list[object]) -> Ended:
        monkeypatch.setattr(sys, "argv", ["peftkit", *map(str, argv)])
        capsys.readouterr()
        code: object = 0
        try:
            cli.main()
        except SystemExit as left:
            code = left.code
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path, reviews: Path) -> Place:
    folder = tmp_path / "files"
    folder.mkdir()
    return Place(folder, tiny_model, reviews)


@pytest.fixture(scope="session")
def trained(tiny_model: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one step."""
    import torch

    from peftkit import pipeline

    torch.set_num_threads(1)
    settings = (
        f"model.path={tiny_model}",
        f"data.path={reviews}",
        "train.max_steps=1",
        "train.max_length=256",
        f"evaluate.max_rows={FEW}",
        "evaluate.bootstrap_samples=10",
    )
    return pipeline.run("sentiment", words=settings, out=tmp_path_factory.mktemp("runs") / "run").folder


def check_case(case: Case, place: Place, command: Command) -> None:
    ended = command(case.argv(place))
    message = " ".join(ended.err.translate(BOX).split())
    assert ended.code == case.code, message
    for part in case.says:
        assert part in message
    assert "Traceback" not in ended.out + ended.err
    shown = message
    for path in (place.folder, place.model, place.reviews.parent):
        shown = shown.replace(str(path), "")
    assert len(shown.replace("x" * 260, "")) <= LONGEST
    here = Path.cwd()
    assert list(here.rglob("*")) == []


def table(*cases: Case) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name.replace(" ", "-")) for case in cases])


@table(*USAGE)
def test_usage(case: Case, place: Place, command: Command) -> None:
    check_case(case, place, command)


@table(*SETTINGS, *RECIPES, *FILES, *OUTPUT)
def test_mistake_before_anything_is_read(case: Case, place: Place, command: Command) -> None:
    check_case(case, place, command)


@table(*DATA, *MODELS)
def test_mistake_in_data_or_model(case: Case, place: Place, command: Command) -> None:
    check_case(case, place, command)


@pytest.mark.xdist_group("trained")
@table(*TRAINED)
def test_mistake_with_a_trained_adapter(case: Case, place: Place, command: Command, trained: Path) -> None:
    place.run = trained
    check_case(case, place, command)


@pytest.mark.xdist_group("trained")
@pytest.mark.parametrize("inside", ["", "adapter"])
def test_an_adapter_and_the_run_above_it_are_the_same(inside: str, command: Command, trained: Path) -> None:
    ended = command(["predict", trained / inside, "1 it was a good film", "--json"])
    assert ended.code == 0
    [answer] = json.loads(ended.out)
    assert answer["text"] == "1 it was a good film"
    assert sorted(answer["scores"]) == ["negative", "positive"]


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


@pytest.mark.parametrize(
    "setting",
    [
        "adapter.r=500",
        "task.prompt=[{text}]",
        "task.prompt={text}",
        'data.columns={"text": "text"}',
        "data.label_names.1=Positive",
        "data.test_path=",
        "train.optim=adafactor",
        'train.extra.lr_scheduler_kwargs={"num_cycles": 2}',
        'adapter.extra.rank_pattern={"q_proj": 8}',
    ],
)
def test_unusual_settings_that_are_no_mistake(setting: str, place: Place, command: Command) -> None:
    ended = command(place.check(setting))
    assert (ended.code, ended.err) == (0, "")
