"""Every registered recipe: its promises, its presets, and a run of two steps from end to end."""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from peftkit.cli import main
from peftkit.config import TaskConfig
from peftkit.evaluate.metrics import METRICS, find_metrics
from peftkit.recipe import Recipe, list_recipes, load_recipe
from peftkit.resolve import resolve
from peftkit.yaml_file import to_yaml

from .embedded import rows_of

pytestmark = pytest.mark.xdist_group("recipes")

ROOT = Path(__file__).parents[2]
RECIPES = list_recipes().recipes
PRESETS = [(name, preset) for name, recipe in RECIPES.items() for preset in recipe.presets]
INTERVAL = {"value", "low", "high", "n"}
ROWS = 80


def answered(task: TaskConfig) -> str:
    """The template of what is answered; chats and plain texts have none."""
    return {"classification": "{label}", "regression": "{score}", "generation": task.completion}.get(task.kind, "")


def test_the_built_in_recipes_are_registered() -> None:
    assert list_recipes().broken == {}
    defined = {
        path.stem for path in (ROOT / "recipes").glob("*.py") if "\nrecipe = " in path.read_text(encoding="utf-8")
    }
    assert set(RECIPES) >= defined >= {"sentiment", "classification", "summarization", "translation", "extraction"}


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.py")), ids=lambda path: path.stem)
def test_a_built_in_recipe_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 90


@pytest.mark.parametrize("name", RECIPES)
def test_it_says_what_it_is(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert 10 < len(recipe.summary) <= 90
    assert recipe.summary[0].isupper()
    assert recipe.intended_use.endswith(".")
    assert recipe.columns
    for column, aliases in recipe.columns.items():
        assert aliases[0] == column
        assert len(set(aliases)) == len(aliases) > 1
    folded = [alias for aliases in recipe.columns.values() for alias in aliases]
    assert len(set(folded)) == len(folded), "one name cannot mean two columns"


@pytest.mark.parametrize("name", RECIPES)
def test_its_metrics_exist(name: str) -> None:
    metrics = find_metrics(RECIPES[name].metrics)
    assert metrics
    assert len({metric.key for metric in metrics}) == len(metrics)
    assert len({metric.name for metric in metrics}) == len(metrics)
    own = {metric.key for metric in RECIPES[name].metrics if not isinstance(metric, str)}
    assert own.isdisjoint(METRICS), "a metric of the recipe's own must not pass for another one"


@pytest.mark.parametrize("name", RECIPES)
def test_its_presets_grow_with_the_machine(name: str) -> None:
    memory = {preset: one.memory for preset, one in RECIPES[name].presets.items()}
    assert memory["tiny"] == 0
    assert list(memory.values()) == sorted(memory.values())
    for preset, one in RECIPES[name].presets.items():
        assert preset in ("tiny", "encoder") or preset == f"{one.memory}gb"
        assert one.summary


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_a_preset_resolves(name: str, preset: str) -> None:
    resolved = resolve(name, preset=preset)
    assert (resolved.config.recipe, resolved.config.preset) == (name, preset)
    assert resolved.changed == {}
    for group, values in RECIPES[name].presets[preset].values.items():
        for key, value in values.items():
            assert getattr(getattr(resolved.config, group), key) == value
    task = resolved.config.task
    if task.kind not in ("chat", "completion"):
        assert set(re.findall(r"\{(\w+)\}", task.prompt + answered(task))) == set(RECIPES[name].columns)


@pytest.mark.parametrize("comments", [False, True])
@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_yaml_gives_the_same_configuration_back(name: str, preset: str, comments: bool, tmp_path: Path) -> None:
    config = resolve(name, preset=preset).config
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config, comments=comments), encoding="utf-8")
    assert resolve(str(file)).config == config
    assert resolve(name, file=file).config == config


def row_of(recipe: Recipe, task: TaskConfig, number: int) -> dict[str, Any]:
    """A row with the recipe's columns; what is answered is JSON with a placeholder, which suits every recipe."""
    words = ("river", "window", "engine", "garden", "letter", "violin", "harbour", "cellar")
    text = f"{number * 7919} {words[number % 8]} and {words[number // 8 % 8]} no. {number * 104729}"
    said = json.dumps({"said": f"{words[number % 8]} %(count)s"})
    if task.kind == "chat":
        return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": said}]}
    labels = task.labels or ("yes", "no")
    values = {"label": labels[number % len(labels)], "score": number / 8 - 4}
    return {name: values.get(name, said if f"{{{name}}}" in answered(task) else text) for name in recipe.columns}


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps_leave_a_whole_run(name: str, tiny_model: Path, tmp_path: Path, capfd, monkeypatch) -> None:
    out = tmp_path / "a-folder-whose-name-is-as-long-as-the-names-that-people-give" / "x" / ("results-" * 12 + "1")
    task = resolve(name).config.task
    data = tmp_path / "rows.jsonl"
    rows = (json.dumps(row_of(RECIPES[name], task, number)) + "\n" for number in range(ROWS))
    data.write_text("".join(rows), encoding="utf-8")
    words = [f"model.path={tiny_model}", f"data.path={data}", "data.test_fraction=0.3", "train.max_steps=2"]
    words += ["evaluate.max_rows=8", "evaluate.bootstrap_samples=50", "data.train_rows=40", "train.save_steps=1"]
    words += ["train.max_length=512", "train.num_train_epochs=1", "evaluate.max_new_tokens=8"]
    monkeypatch.setattr(sys, "argv", ["peftkit", "run", name, *words, "--out", str(out)])
    with pytest.raises(SystemExit) as left:
        main()
    stdout, stderr = capfd.readouterr()
    assert (left.value.code or 0, stderr) == (0, "")

    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    expected = ["config.yaml", "data.json", "metrics.jsonl", "predictions.jsonl", "report.html", "summary.json"]
    expected += [f"adapter/{file}" for file in ("README.md", "peftkit.json")]
    weights = ["adapter_config.json", "adapter_model.safetensors"]
    expected += [f"{folder}/{file}" for folder in ("adapter", "checkpoints/checkpoint-2") for file in weights]
    assert files >= set(expected)
    assert not [file for file in files if file.endswith((".bin", ".pt", ".pth", ".pkl")) or ".tmp" in file]

    config = resolve(str(out / "config.yaml")).config
    assert (config.recipe, config.model.path, config.train.max_steps) == (name, str(tiny_model), 2)
    if task.kind == "classification":
        assert config.task.labels == (task.labels or ("no", "yes"))
    assert json.loads((out / "data.json").read_text(encoding="utf-8"))["read"] == ROWS
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in metrics] == [1, 2]
    assert all(line["loss"] > 0 for line in metrics)
    predictions = (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(predictions) == 8
    check_summary(json.loads((out / "summary.json").read_text(encoding="utf-8")), RECIPES[name], task)
    lines = stdout.splitlines()
    assert lines[0] == f"peftkit run {name}, preset tiny  ->  {out}"
    assert lines[-1] == str(out)


def check_summary(summary: dict, recipe: Recipe, task: TaskConfig) -> None:
    keys = [metric.key for metric in find_metrics(recipe.metrics)]
    for which in ("before", "after", "difference"):
        assert list(summary[which]) == keys
        for metric in summary[which].values():
            assert set(metric) == INTERVAL
            assert metric["n"] == 8
            if metric["value"] is None:  # random letters hold no words, so none of them can be copied
                assert (metric["low"], metric["high"]) == (None, None)
            else:
                assert metric["low"] <= metric["value"] <= metric["high"]
    for key in keys:
        values = {which: summary[which][key]["value"] for which in ("before", "after", "difference")}
        if None not in values.values():
            assert values["difference"] == pytest.approx(values["after"] - values["before"])
        assert summary["metrics"][key]["name"]
    assert summary["before"][keys[0]]["value"] is not None
    assert summary["recipe"] == recipe.name
    assert summary["train"]["steps"] == 2
    stages = summary["time"]["stages"]
    assert list(stages) == ["data", "model", "evaluate_before", "train", "evaluate_after", "write"]
    assert 0 < sum(stages.values()) <= summary["time"]["total"] + 0.01
    assert summary["memory"]["peak_rss"] > 2**27
    assert summary["tokens_per_second"] > 0
    assert summary["tokens"]["train"] >= summary["tokens"]["trained"]
    assert (summary["tokens"]["trained"] > 0) == (task.kind != "regression")


def test_the_snippets_of_sentiment_are_counted() -> None:
    rows, used = rows_of("sentiment")
    assert (len(rows), len(used)) == (10_605, 10_072)
    assert Counter(row["label"] for row in used) == {"positive": 4_996, "negative": 5_076}
    assert all(set(row) == {"text", "label"} and row["text"].strip() for row in used)


def test_the_recipe_in_the_contributing_guide_runs(tiny_model: Path, tmp_path: Path) -> None:
    from peftkit import predict, run

    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", guide, flags=re.DOTALL | re.MULTILINE)
    file = tmp_path / "topic.py"
    file.write_text(code, encoding="utf-8")
    recipe = load_recipe(str(file))
    assert len(code.splitlines()) <= 60
    values = {"model": {"path": str(tiny_model)}, "train": {"max_steps": 2}, "evaluate": {"bootstrap_samples": 20}}
    result = run(str(file), values, out=tmp_path / "run")
    assert result.summary["recipe"] == recipe.name == "topic"
    assert result.summary["train"]["steps"] == 2
    assert set(result.summary["after"]) == set(recipe.metrics)
    assert result.summary["after"]["accuracy"]["n"] >= 2
    (answer,) = predict(result.adapter, ["where is my parcel?"])
    assert set(answer["scores"]) == set(resolve(str(file)).config.task.labels)
