"""Completion learns documents in pieces that stay in one split, and its adapter continues a text."""

from pathlib import Path

import pytest

from peftkit import check, predict, run
from peftkit.recipe import load_recipe

from .embedded import rows_of

WORDS = ("river", "window", "engine", "garden", "letter", "violin", "harbour", "cellar")


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """A folder of 40 documents, each of several pieces."""
    folder = tmp_path / "books"
    folder.mkdir()
    for book in range(40):
        lines = (f"{book}.{line} the {WORDS[(book + line) % 8]} of {book * line * 7919}" for line in range(12))
        (folder / f"{book}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_documents_are_cut_into_pieces_of_one_split(books: Path, tiny_model: Path) -> None:
    words = [f"model.path={tiny_model}", f"data.path={books}", "data.test_fraction=0.3", "train.max_length=128"]
    report = check("completion", words=words)
    assert report["read"] == 40
    assert sum(split["rows"] for split in report["splits"].values()) > 80
    assert sum(report["available"].values()) == 40
    assert (report["overlap"], report["fully_masked"]) == (0, 0)
    assert report["splits"]["train"]["trained_share"] == 1.0
    assert report["splits"]["train"]["tokens"]["max"] == 128


def test_a_run_is_judged_by_perplexity_and_its_adapter_continues(books: Path, tiny_model: Path, tmp_path: Path) -> None:
    words = [f"model.path={tiny_model}", f"data.path={books}", "data.test_fraction=0.3", "train.max_length=128"]
    words += ["train.max_steps=6", "train.learning_rate=0.01", "evaluate.max_rows=8", "evaluate.bootstrap_samples=20"]
    result = run("completion", words=[*words, "evaluate.max_new_tokens=8"], out=tmp_path / "run")
    before, after = result.summary["before"], result.summary["after"]
    assert list(after) == ["perplexity", "loss", "token_accuracy"]
    assert after["perplexity"]["value"] < before["perplexity"]["value"]
    assert result.summary["difference"]["perplexity"]["high"] < 0
    answers = predict(result.adapter, ["3.1 the window", "x" * 500])
    assert [answer["text"] for answer in answers] == ["3.1 the window", "x" * 500]
    assert all(answer["answer"] for answer in answers)


def test_the_documentation_is_read_with_names() -> None:
    rows, used = rows_of("completion")
    assert rows == used
    assert len(rows) > 4000
    assert len({row["text"] for row in rows}) == len(rows)
    (norm,) = [row["text"] for row in rows if row["text"].startswith("numpy.linalg._linalg.norm\n\n")]
    assert "Matrix or vector norm." in norm.splitlines()
    assert load_recipe("completion").embedded.licence == "BSD-3-Clause"
