"""Defaults, a recipe, a preset, a file, words and Python values become one configuration, and back to a file."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from peftkit.config import GROUPS, RunConfig
from peftkit.errors import ConfigError
from peftkit.resolve import flat_values, known_keys, resolve
from peftkit.yaml_file import to_yaml, write_yaml

RECIPE = """
from peftkit import Preset, Recipe

recipe = Recipe(
    name="mine",
    summary="",
    columns={"text": (), "label": ()},
    metrics=(),
    defaults={"task": {"labels": ["x", "y"]}, "train": {"seed": 1, "max_steps": 1, "max_length": 101}},
    presets={
        "tiny": Preset("", 0, {"train": {"seed": 2, "max_steps": 2}}),
        "large": Preset("", 0, {"train": {"seed": 3, "max_steps": 3}}),
    },
)
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(RECIPE)
    return str(path)


def in_file(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def from_file(folder: Path, text: str) -> RunConfig:
    return resolve("sentiment", file=in_file(folder, text)).config


def from_words(*words: str) -> RunConfig:
    return resolve("sentiment", words=words).config


def test_later_sources_win(mine: str, tmp_path: Path) -> None:
    file = in_file(tmp_path, "train: {seed: 4, max_steps: 4, save_steps: 4}")
    sources: dict[str, Any] = {}

    def values() -> tuple[int, int, int, int]:
        train = resolve(mine, **sources).config.train
        return train.seed, train.max_steps, train.save_steps, train.max_length

    assert values() == (2, 2, 0, 101)
    sources["preset"] = "large"
    assert values() == (3, 3, 0, 101)
    sources["file"] = file
    assert values() == (4, 4, 4, 101)
    sources["words"] = ["train.seed=5", "train.max_steps=5"]
    assert values() == (5, 5, 4, 101)
    sources["values"] = {"train": {"seed": 6}}
    assert values() == (6, 5, 4, 101)


def test_the_last_of_two_words_wins() -> None:
    assert from_words("train.seed=1", "train.seed=2").train.seed == 2


def test_changed_names_both_values_and_the_origin(mine: str, tmp_path: Path) -> None:
    file = in_file(tmp_path, "train: {save_steps: 4, max_length: 101}")
    words = ["data.columns.text=review", "task.labels=a,b"]
    changed = resolve(mine, file=file, words=words, values={"train": {"seed": 6}}).changed
    assert changed == {
        "train.save_steps": (0, 4, str(file)),
        "data.columns.text": (None, "review", "command line"),
        "task.labels": (["x", "y"], ["a", "b"], "command line"),
        "train.seed": (2, 6, "Python"),
    }


def test_nothing_is_changed_by_the_recipe_and_its_preset_alone() -> None:
    assert resolve("sentiment", preset="12gb").changed == {}


def test_a_file_names_recipe_and_preset(mine: str, tmp_path: Path) -> None:
    file = in_file(tmp_path, f"recipe: {mine}\npreset: large")
    with pytest.raises(ConfigError, match="cannot choose code that is run"):
        resolve(str(file))
    resolved = resolve(str(file), own_run=True)
    assert (resolved.recipe.name, resolved.config.recipe, resolved.config.preset) == ("mine", mine, "large")
    assert resolve(str(file), preset="tiny", own_run=True).config.preset == "tiny"
    assert resolve("sentiment", file=in_file(tmp_path, "recipe: sentiment")).recipe.name == "sentiment"


@pytest.mark.parametrize("text", ["2e-4", "0.0002", "2.0e-4", "+2E-04", ".0002", '"2e-4"'])
def test_numbers_of_a_file(text: str, tmp_path: Path) -> None:
    assert from_file(tmp_path, f"train:\n  learning_rate: {text}").train.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("[yes, no]", ("yes", "no")),
        ("[on, off]", ("on", "off")),
        ("[1, 0]", ("1", "0")),
        ("[012, 2026-01-01]", ("012", "2026-01-01")),
        ("[1:30, y]", ("1:30", "y")),
        ("bad,  good", ("bad", "good")),
        ('["true", "null"]', ("true", "null")),
    ],
)
def test_labels_of_a_file_are_what_stands_there(text: str, labels: tuple[str, ...], tmp_path: Path) -> None:
    assert from_file(tmp_path, f"task:\n  labels: {text}").task.labels == labels


def test_names_of_a_file_are_what_stands_there(tmp_path: Path) -> None:
    config = from_file(tmp_path, "data:\n  label_names: {no: negative, 1: positive, 07: positive, a.b: negative}")
    assert config.data.label_names == {"no": "negative", "1": "positive", "07": "positive", "a.b": "negative"}


def test_groups_and_names_without_content_are_nothing(tmp_path: Path) -> None:
    empty = from_file(tmp_path, "train:\nmodel: {}\ndata:\n  columns:\n")
    assert empty == resolve("sentiment").config


def test_a_key_may_be_written_flat_in_a_file(tmp_path: Path) -> None:
    assert from_file(tmp_path, "train.seed: 7").train.seed == 7


def test_words_of_lists() -> None:
    assert from_words("adapter.target_modules=q_proj, v_proj").adapter.target_modules == ("q_proj", "v_proj")
    assert from_words('task.labels=["a, b","c"]').task.labels == ("a, b", "c")


def test_words_of_nested_names() -> None:
    config = from_words("data.columns.text=my review", "data.label_names.a.b=positive", 'data.columns={"label": "x"}')
    assert config.data.columns == {"text": "my review", "label": "x"}
    assert config.data.label_names == {"a.b": "positive"}


@pytest.mark.parametrize("text", ["{text}", "[INST] {text}", "a=b {text}", '{"text": {text}}', "5 {text}"])
def test_text_stays_text(text: str) -> None:
    assert from_words(f"task.prompt={text}").task.prompt == text


def test_a_number_where_text_is_meant() -> None:
    assert from_words("model.revision=0123456").model.revision == "0123456"


@pytest.mark.parametrize("text", ["", "null"])
def test_nothing_where_nothing_is_allowed(text: str) -> None:
    config = from_words(f"task.system={text}", f"data.path={text}")
    assert (config.task.system, config.data.path) == (None, None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("3", 3),
        ("0.5", 0.5),
        ("1e-3", 1e-3),
        ("text", "text"),
        ("", ""),
        ("null", None),
        ("NaN", "NaN"),
        ('"3"', "3"),
        ("[1, 2]", [1, 2]),
        ('{"a": {"b": 1}}', {"a": {"b": 1}}),
    ],
)
def test_extra_values_have_types(text: str, value: object) -> None:
    config = from_words(f"model.extra.name={text}", f"model.chat_template_kwargs.name={text}")
    assert config.model.extra == config.model.chat_template_kwargs == {"name": value}
    assert type(config.model.extra["name"]) is type(value)


def test_extra_values_of_a_file_may_be_nested(tmp_path: Path) -> None:
    config = from_file(tmp_path, "model:\n  extra:\n    max_memory: {cpu: 10GB, gpu: {a: 1}}\n    deep: true")
    assert config.model.extra == {"max_memory": {"cpu": "10GB", "gpu": {"a": 1}}, "deep": True}


def test_flat_values_spell_out_names_and_keep_values_whole() -> None:
    config = from_words("data.columns.text=review", 'model.extra.max_memory={"cpu": 1}', "task.labels=a,b")
    flat = flat_values(config)
    assert flat["data.columns.text"] == "review"
    assert flat["model.extra.max_memory"] == {"cpu": 1}
    assert flat["task.labels"] == ["a", "b"]
    assert flat["train.seed"] == 0
    assert "data.columns" not in flat
    assert {key.split(".")[0] for key in flat} == set(GROUPS)


def test_the_first_words_that_fail_are_named() -> None:
    with pytest.raises(ConfigError, match=r"train\.seed: 'x' .*\(command line\)"):
        from_words("train.seed=x")
    with pytest.raises(ConfigError, match=r"train\.seed: 'y' .*\(Python\)"):
        resolve("sentiment", words=["train.seed=x"], values={"train": {"seed": "y"}})


def test_every_key_has_a_description() -> None:
    keys = known_keys()
    assert len(keys) == len(set(keys)) > 40
    for key in keys:
        group, name = key.split(".")[:2]
        model = RunConfig.model_fields[group].annotation
        assert model is not None
        description = model.model_fields[name].description
        assert description, key
        assert description == description.strip()


def test_a_commented_file_explains_every_key_and_reads_back(tmp_path: Path) -> None:
    config = resolve("sentiment", preset="24gb").config
    text = to_yaml(config, comments=True)
    for key in known_keys():
        group, name = key.split(".")[:2]
        model = RunConfig.model_fields[group].annotation
        assert model is not None
        assert any(
            line.startswith(f"  {name}: ") and line.endswith(f"  # {model.model_fields[name].description}")
            for line in text.splitlines()
        ), key
    path = in_file(tmp_path, text)
    assert resolve(str(path)).config == config


def test_a_configuration_is_frozen() -> None:
    config = resolve("sentiment").config
    with pytest.raises(ValidationError, match="frozen"):
        config.train.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        config.preset = "12gb"
    assert config.train.seed == 0


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = TEXTS.filter(bool)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS


@settings(max_examples=100, deadline=None)
@given(
    system=st.none() | NAMES,
    prompt=TEXTS.map("{{text}} {}".format),
    labels=st.lists(NAMES, min_size=2, max_size=4, unique_by=str.casefold),
    columns=st.dictionaries(st.sampled_from(["text", "label"]), TEXTS),
    names=st.dictionaries(NAMES, st.just(0), max_size=3),
    learning_rate=st.floats(min_value=0, allow_infinity=False),
    seed=st.integers(min_value=0, max_value=2**32 - 1),
    packing=st.booleans(),
    extra=st.dictionaries(
        st.from_regex(r"x_[a-z.]{0,8}", fullmatch=True), PLAIN | st.lists(PLAIN) | st.dictionaries(TEXTS, PLAIN)
    ),
)
def test_a_configuration_written_to_a_file_reads_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, names: dict[str, int], **drawn: Any
) -> None:
    labels = drawn["labels"]
    config = resolve(
        "sentiment",
        values={
            "task": {"system": drawn["system"], "prompt": drawn["prompt"], "labels": labels},
            "data": {"columns": drawn["columns"], "label_names": dict.fromkeys(names, labels[0])},
            "train": {name: drawn[name] for name in ("learning_rate", "seed", "packing")},
            "model": {"extra": drawn["extra"]},
        },
    ).config
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    for comments in (False, True):
        path.write_text(to_yaml(config, comments=comments), encoding="utf-8", newline="\n")
        assert resolve(str(path)).config == config


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([f"label {number}" for number in range(6_000)], "more than 65,536 bytes"),
        ([str(number) for number in range(6_000)], "more than 5,000 values"),
    ],
)
def test_settings_that_could_not_be_read_again_are_not_written(tmp_path: Path, labels: list[str], said: str) -> None:
    config = resolve("sentiment", values={"task.labels": labels}).config
    with pytest.raises(ConfigError, match=said):
        write_yaml(tmp_path / "config.yaml", config)
    assert not list(tmp_path.iterdir())
