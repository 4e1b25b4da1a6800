"""Rows as a recipe names them: labels, scores, weights, groups, and several sources."""

import json

import pytest

from peftkit.data.read import read_data
from peftkit.errors import DataError
from peftkit.resolve import resolve


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def read(tmp_path):
    def found(rows, *words, recipe="sentiment"):
        resolved = resolve(recipe, words=[f"data.path={write(tmp_path / 'rows.jsonl', rows)}", *words])
        return read_data(resolved.config, resolved.recipe)

    return found


def labelled(labels):
    return [{"text": f"text number {number}", "label": label} for number, label in enumerate(labels)]


def test_labels_are_those_of_the_rows_where_none_are_named(read):
    found = read(labelled(["spam", "Ham", "ham", "ham", 3, "spam "]), "task.labels=null")
    assert found.labels == ("3", "ham", "spam")
    assert [row.values["label"] for row in found.rows] == ["spam", "ham", "ham", "ham", "3", "spam"]


def test_given_names_of_labels_count_as_the_label(read):
    found = read(labelled(["1", "5", "5", "1"]), "task.labels=null", "data.label_names.1=bad")
    assert found.labels == ("5", "bad")
    assert [row.values["label"] for row in found.rows] == ["bad", "5", "5", "bad"]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([f"label {number}" for number in range(60)], "60 different labels"),
        (["same"] * 9, "the label 'same' alone"),
    ],
)
def test_labels_that_are_none(read, labels, said):
    with pytest.raises(DataError, match=said):
        read(labelled(labels), "task.labels=null")


SEVERAL = ("task.labels=null", "task.multi_label=true", "data.on_bad_row=skip", "data.max_bad_fraction=0.9")


def test_a_row_can_have_several_labels_in_any_of_three_ways(read):
    rows = labelled(["b, a", ["a", "c"], '["c"]', "", [], 7, [["a"]]])
    found = read(rows, *SEVERAL)
    assert found.labels == ("a", "b", "c")
    assert [row.values["label"] for row in found.rows] == ["a, b", "a, c", "c", "", ""]
    assert [(row.where, row.reason) for row in found.bad] == [
        ("rows.jsonl:6", "neither labels in a text nor an array of them"),
        ("rows.jsonl:7", "neither labels in a text nor an array of them"),
    ]


def test_weights_and_groups_are_kept_and_checked(read):
    rows = [
        {**row, "w": weight, "country": "AT"}
        for row, weight in zip(labelled(["positive"] * 4), (2, "0.5", -1, "x"), strict=True)
    ]
    words = ("data.weight_column=w", "evaluate.group_by=country", "data.on_bad_row=skip", "data.max_bad_fraction=0.6")
    found = read(rows, *words)
    assert [(row.values["w"], row.values["country"]) for row in found.rows] == [("2", "AT"), ("0.5", "AT")]
    assert [(row.where, row.column) for row in found.bad] == [("rows.jsonl:3", "w"), ("rows.jsonl:4", "w")]
    with pytest.raises(DataError, match=r"evaluate\.group_by=land: no such column in rows\.jsonl:1"):
        read(rows, "evaluate.group_by=land")


def test_a_score_is_a_finite_number(read):
    rows = [
        {"text": f"text {number}", "score": score} for number, score in enumerate((1, "-2.5", "nan", "good", "1e999"))
    ]
    found = read(rows, "data.on_bad_row=skip", "data.max_bad_fraction=0.9", recipe="regression")
    assert [row.values["score"] for row in found.rows] == ["1", "-2.5"]
    assert [row.where for row in found.bad] == ["rows.jsonl:3", "rows.jsonl:4", "rows.jsonl:5"]


def test_rows_of_several_sources_know_theirs(tmp_path):
    write(tmp_path / "a.jsonl", labelled(["positive"] * 3))
    (tmp_path / "b").mkdir()
    write(tmp_path / "b" / "a.jsonl", labelled(["negative"] * 2))
    path = json.dumps([str(tmp_path / "*.jsonl"), str(tmp_path / "b" / "a.jsonl")])
    resolved = resolve("sentiment", words=[f"data.path={path}"])
    found = read_data(resolved.config, resolved.recipe)
    assert found.origins == [0, 0, 0, 1, 1]
    assert len({row.where for row in found.rows}) == 5
    assert [one["name"] for one in found.source["sources"]] == ["a.jsonl", "a.jsonl"]
