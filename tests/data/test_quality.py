import json
import random

import pytest

from peftkit.data.quality import label_imbalance, quality_cautions, quality_report
from peftkit.data.splits import near_duplicate_groups


def report_of(texts, labels):
    places = [f"x.csv:{row}" for row in range(2, len(texts) + 2)]
    return quality_report(texts, labels, places, near_duplicate_groups(texts))


def clean(count, seed=0):
    rng = random.Random(seed)
    texts = [
        " ".join([f"w{rng.randrange(2000)}" for _ in range(12)] + [("fine", "poor")[row % 2]]) for row in range(count)
    ]
    return texts, [("good", "bad")[row % 2] for row in range(count)]


def test_label_imbalance():
    found = label_imbalance(["b", "a", "c", "b", "b", "a"])
    assert found == {"counts": {"b": 3, "a": 2, "c": 1}, "largest_share": 0.5, "ratio": 3.0}
    assert list(found["counts"]) == ["b", "a", "c"]
    assert label_imbalance([]) == {"counts": {}, "largest_share": None, "ratio": None}


def test_good_rows_raise_no_caution():
    report = report_of(*clean(400))
    assert list(report) == ["rows", "labels", "duplicates", "label_noise", "personal_data"]
    assert json.loads(json.dumps(report)) == report
    assert report["rows"] == report["label_noise"]["checked"] == 400
    assert quality_cautions(report) == []


@pytest.mark.parametrize("labels", [None, []])
def test_no_rows_and_no_labels(labels):
    report = report_of([], labels)
    assert quality_cautions(report) == []
    assert (report["labels"] is None) == (report["label_noise"] is None) == (labels is None)


def test_rows_without_labels_are_checked_for_the_rest():
    report = report_of(["write to a@mail.de", "same", "same"], None)
    assert quality_cautions(report) == [
        "1 row seems to hold personal data or secrets, which a model can repeat (mail address: 1, first in x.csv:2); "
        "remove or mask them",
        "1 row repeats the text of an earlier row (first: x.csv:3 and x.csv:4); such texts weigh more in training",
    ]


def test_cautions_of_texts():
    texts, labels = clean(480)
    near = "the quick brown fox jumps over the lazy dog near the river bank today"
    texts += ["call +44 20 7946 0958 or a@mail.de", "same", "same", "same", near, *[f"{near} {n}" for n in range(5)]]
    labels += ["good", "good", "bad", "good", "good", *["bad"] * 5]
    assert quality_cautions(report_of(texts, labels)) == [
        "1 row seems to hold personal data or secrets, which a model can repeat (mail address: 1, first in x.csv:482; "
        "phone number: 1, first in x.csv:482); remove or mask them",
        "1 text stands in several rows with different labels (first: x.csv:483 and x.csv:484); decide for one label",
        "6 rows are nearly the same as others that have another label (first: x.csv:486 and x.csv:487); see whether "
        "both labels are meant",
    ]


def test_cautions_of_labels():
    texts, _ = clean(240)
    assert quality_cautions(report_of(texts, ["a"] * 220 + ["b"] * 20)) == [
        "label 'a' has 220 rows and 'b' 20; always answering 'a' would be right in 92%, so look at macro F1 rather "
        "than accuracy"
    ]
    assert quality_cautions(report_of(texts, ["a"] * 218 + ["b"] * 22)) == []
    assert len(quality_cautions(report_of(texts[:220], ["a"] * 200 + ["b"] * 20))) == 1
    assert quality_cautions(report_of(texts, ["a"] * 240)) == [
        "every row has the label 'a', so there is nothing to tell apart; add rows of others"
    ]


def test_caution_of_noise():
    texts, labels = clean(400)
    texts = [" ".join([*text.split()[:3], *(text[-4:] + ending for ending in ("", "s", "ly", "er"))]) for text in texts]
    flipped = range(100, 200, 10)
    for row in flipped:
        labels[row] = "bad"
    report = report_of(texts, labels)
    noise = report["label_noise"]
    assert 5 <= noise["sure"] <= noise["suspects"] <= 10
    assert {row["place"] for row in noise["rows"]} <= {f"x.csv:{row + 2}" for row in flipped}
    assert quality_cautions(report) == [
        f"{noise['sure']} labels contradict a quick word model that gives another one at least 90%, of 400 checked; "
        f"not all of them are wrong: read them, first {noise['rows'][0]['place']} ('bad', likelier 'good')"
    ]
    noise["sure"] = 1
    assert quality_cautions(report) == []
