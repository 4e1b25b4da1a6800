"""Four genres in equal parts, none given away by how the collection was prepared; and labels of a user's own."""

import json
from collections import Counter
from pathlib import Path

import pytest

from peftkit import run
from peftkit_recipes.classification import SOURCES, plain

from .embedded import rows_of


def test_the_rows_are_balanced() -> None:
    rows, used = rows_of("classification")
    assert (len(rows), len(used)) == (10_605 + 3_708 + 4_200 + 5_190, 4 * 3_384)
    assert Counter(row["label"] for row in used) == dict.fromkeys(SOURCES, 3_384)
    assert rows_of("classification")[0] == rows


def test_no_trace_of_the_collection_gives_a_label_away() -> None:
    for row in rows_of("classification")[1]:
        assert row["text"] == row["text"].lower() == " ".join(row["text"].split())
        assert "@anonymous" not in row["text"]
        assert "url_removed" not in row["text"]
        assert len(row["text"].split()) >= 5


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("RT @anonymous Tom &amp; I saw http://url_removed", "tom & i saw"),
        ("  The ART of\tit ", "the art of it"),
        ("&lt;3 @someone", "<3 @someone"),
    ],
)
def test_texts_are_written_alike(text: str, written: str) -> None:
    assert plain(text) == written


def mails(path: Path, **labels: object) -> Path:
    """A file with 60 mails, whose labels are those of `labels` in turn."""
    rows = [
        {"mail": f"{n * 7919} about {word} no. {n * 104729}", "tags": labels[word]}
        for n in range(20)
        for word in labels
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def small(model: Path, data: Path) -> dict:
    return {
        "model": {"path": str(model)},
        "data": {"path": str(data), "test_fraction": 0.2},
        "train": {"max_steps": 2, "max_length": 512},
        "evaluate": {"bootstrap_samples": 20, "max_new_tokens": 4},
    }


def test_the_labels_are_those_of_the_users_rows(tiny_model: Path, tmp_path: Path) -> None:
    data = mails(tmp_path / "mails.jsonl", bill="Bill", parcel="parcel", other="other")
    result = run("classification", small(tiny_model, data), out=tmp_path / "run")
    assert list(result.summary["per_label"]["after"]) == ["Bill", "other", "parcel"]
    assert result.summary["mcnemar"]["p_value"] <= 1


def test_a_row_can_have_several_labels(tiny_model: Path, tmp_path: Path) -> None:
    data = mails(tmp_path / "mails.jsonl", bill=["Bill", "urgent"], parcel="parcel, urgent", other=[])
    values = {**small(tiny_model, data), "task": {"multi_label": True}}
    result = run("classification", values, out=tmp_path / "run")
    assert list(result.summary["per_label"]["after"]) == ["Bill", "parcel", "urgent"]
    assert {"accuracy", "macro_f1", "micro_f1"} <= set(result.summary["after"])
    lines = (result.folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["expected"] for line in lines} <= {"Bill, urgent", "parcel, urgent", ""}
