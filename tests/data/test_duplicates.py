import pytest

from peftkit.data.duplicates import MAX_EXAMPLES, duplicates
from peftkit.data.splits import near_duplicate_groups

FOX = "the quick brown fox jumps over the lazy dog near the river bank today"
TEXTS = [
    FOX,
    "something else",
    FOX.title() + "!",
    FOX.replace("brown", "red"),
    "Something, else",
    "alone",
    "one",
    "One",
]
LABELS = ["a", "b", "a", "c", "a", "a", "b", "b"]
PLACES = [f"x.csv:{number}" for number in range(2, 10)]
NONE = {"groups": 0, "rows": 0, "examples": []}


def test_the_same_nearly_the_same_and_conflicts_are_told_apart():
    assert duplicates(TEXTS, LABELS, PLACES, near_duplicate_groups(TEXTS)) == {
        "exact": {
            "groups": 3,
            "rows": 6,
            "examples": [
                {"places": ["x.csv:2", "x.csv:4"], "labels": ["a", "a"]},
                {"places": ["x.csv:3", "x.csv:6"], "labels": ["b", "a"]},
                {"places": ["x.csv:8", "x.csv:9"], "labels": ["b", "b"]},
            ],
        },
        "near": {
            "groups": 1,
            "rows": 3,
            "examples": [{"places": ["x.csv:2", "x.csv:4", "x.csv:5"], "labels": ["a", "a", "c"]}],
        },
        "exact_conflicts": {
            "groups": 1,
            "rows": 2,
            "examples": [{"places": ["x.csv:3", "x.csv:6"], "labels": ["b", "a"]}],
        },
        "near_conflicts": {
            "groups": 1,
            "rows": 3,
            "examples": [{"places": ["x.csv:2", "x.csv:4", "x.csv:5"], "labels": ["a", "a", "c"]}],
        },
    }


def test_rows_without_labels_have_no_conflicts():
    found = duplicates(TEXTS, None, PLACES, near_duplicate_groups(TEXTS))
    assert found["exact"]["examples"][0] == {"places": ["x.csv:2", "x.csv:4"]}
    assert found["exact_conflicts"] == found["near_conflicts"] == NONE


@pytest.mark.parametrize("labels", [None, []])
def test_no_rows(labels):
    assert duplicates([], labels, [], []) == dict.fromkeys(("exact", "near", "exact_conflicts", "near_conflicts"), NONE)


def test_only_the_first_are_listed():
    texts = [str(number // 15) for number in range(15 * 15)]
    found = duplicates(texts, None, [str(number) for number in range(225)], near_duplicate_groups(texts))["exact"]
    assert (found["groups"], found["rows"], len(found["examples"])) == (15, 225, MAX_EXAMPLES)
    assert found["examples"][1]["places"] == [str(number) for number in range(15, 15 + MAX_EXAMPLES)]
