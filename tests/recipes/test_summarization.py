"""First lines of documentation, and columns under other names."""

import json
from pathlib import Path

import pytest

from peftkit import check
from peftkit_recipes.summarization import WORDS

from .embedded import rows_of


def test_the_rows_are_short_sentences_and_the_prose_below_them() -> None:
    rows, used = rows_of("summarization")
    assert len(used) > 1_000
    assert len(rows) > len(used)
    for row in used:
        assert set(row) == {"document", "summary"}
        assert row["summary"].endswith(".")
        assert len(row["summary"].split()) in WORDS
        assert row["summary"] not in row["document"]
        assert len(row["document"].split()) >= 40
    (shapiro,) = (row for row in used if row["summary"] == "Perform the Shapiro-Wilk test for normality.")
    assert shapiro["document"].startswith(
        "The Shapiro-Wilk test tests the null hypothesis that the data was drawn from"
    )


@pytest.mark.parametrize(
    ("document", "summary"),
    [("abstract", "title"), ("article", "highlights"), ("text", "summary"), ("Body", "Headline")],
)
def test_usual_names_of_columns_are_found(document: str, summary: str, tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"id": n, document: f"{n * 7919} rivers rise {n}", summary: f"Rise {n}"} for n in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = check("summarization", {"model": {"path": str(tiny_model)}, "data": {"path": str(path)}})
    assert report["read"] == report["kept"] == 30
    tokens = report["example"]["tokens"]
    assert "".join(token["text"] for token in tokens if token["trained"]).startswith("Rise ")
