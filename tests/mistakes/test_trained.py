"""Mistakes with what a run left: the adapter, its passport, and the run's folder."""

import json
import shutil
from pathlib import Path

import pytest

from .exercise import Case, Command, Place, check_case, cut, replace_text, table, words

pytestmark = pytest.mark.xdist_group("trained")

FEW = 4

TRAINED = [
    Case("no adapter folder", words("predict", "nosuch", "text"), 5, ("no adapter folder 'nosuch'",)),
    Case("text as adapter", words("predict", "x" * 300, "text"), 5, ("no adapter folder",)),
    Case("no passport", lambda place: ["predict", place.folder, "text"], 5, ("has no passport (peftkit.json)",)),
    Case(
        "a merged model",
        lambda place: ["predict", place.file("merged/merge.json", "{}").parent, "text"],
        5,
        ("merged' has no passport", "it is a merged model, which transformers"),
    ),
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


@table(*TRAINED)
def test_mistake_with_a_trained_adapter(case: Case, place: Place, command: Command, trained: Path) -> None:
    place.run = trained
    check_case(case, place, command)


@pytest.mark.parametrize("inside", ["", "adapter"])
def test_an_adapter_and_the_run_above_it_are_the_same(inside: str, command: Command, trained: Path) -> None:
    ended = command(["predict", trained / inside, "1 it was a good film", "--json"])
    assert ended.code == 0
    [answer] = json.loads(ended.out)
    assert answer["text"] == "1 it was a good film"
    assert sorted(answer["scores"]) == ["negative", "positive"]
