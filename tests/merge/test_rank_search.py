"""Ranks are found for every way in which a model answers; scores, which have no distribution, are refused."""

import json
from pathlib import Path

import pytest

from peftkit.errors import ConfigError
from peftkit.judge import predict
from peftkit.merge.shrink import shrink
from peftkit.pipeline import run as whole_run

from ..models import tiny

pytestmark = pytest.mark.xdist_group("merge")

KINDS = {
    "head": ("classification", "bert", ()),
    "several labels": ("classification", "bert", ("task.multi_label=true",)),
    "seq2seq": ("sentiment", "t5", ()),
    "text": ("completion", "llama", ()),
    "scores": ("regression", "bert", ()),
}


def trained(kind, reviews, folder) -> Path:
    recipe, model, more = KINDS[kind]
    rows = [json.loads(line) for line in reviews.read_text().splitlines()]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row | {"score": len(row["text"])}) + "\n" for row in rows))
    words = (
        f"model.path={tiny(model)}",
        f"data.path={path}",
        "model.quantization=none",
        "model.dtype=float32",
        "adapter.r=8",
        "train.max_steps=3",
        "train.learning_rate=1e-2",
        "train.max_length=128",
        "evaluate.max_rows=6",
        "evaluate.bootstrap_samples=10",
        *more,
    )
    return whole_run(recipe, words=words, out=folder / "run").folder


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "scores"])
def test_ranks_are_found(kind, reviews, tmp_path):
    run = trained(kind, reviews, tmp_path)
    tight = shrink(run, tmp_path / "tight", rank="auto", kl=1e-9)
    loose = shrink(run, tmp_path / "loose", rank="auto", kl=1e-2)
    assert tight["texts"] == loose["texts"] == "held-out rows"
    assert tight["kl"] <= 1e-9
    assert loose["kl"] <= 1e-2
    assert loose["ranks"]["total"] < tight["ranks"]["total"] <= loose["ranks_before"]["total"]
    if kind != "text":
        scores = [predict(folder, ["it was a lovely film"])[0]["scores"] for folder in (run, tmp_path / "tight")]
        assert scores[1] == pytest.approx(scores[0], abs=1e-3)


def test_scores_are_refused(reviews, tmp_path):
    run = trained("scores", reviews, tmp_path)
    with pytest.raises(ConfigError, match="scores have none"):
        shrink(run, tmp_path / "out", rank="auto")
    assert shrink(run, tmp_path / "out", rank=2)["ranks"]["most"] == 2
    before, after = (predict(folder, ["it was a lovely film"])[0]["value"] for folder in (run, tmp_path / "out"))
    assert after == pytest.approx(before, abs=1)
