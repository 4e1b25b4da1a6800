import json
import random

import numpy as np
import pytest

from peftkit.data import label_noise as module
from peftkit.data.label_noise import MAX_LISTED, SURE, label_noise
from peftkit.data.splits import near_duplicate_groups

OPINIONS = {
    "negative": ("bad", "awful", "dull", "poor", "cold", "bleak"),
    "neutral": ("plain", "usual", "common", "medium", "normal", "ordinary"),
    "positive": ("good", "great", "lovely", "fine", "warm", "bright"),
}


def rows(count, labels=("negative", "positive"), seed=0):
    rng = random.Random(seed)
    names = [labels[number % len(labels)] for number in range(count)]
    texts = []
    for name in names:
        words = [f"w{rng.randrange(500)}" for _ in range(10)] + rng.choices(OPINIONS[name], k=2)
        rng.shuffle(words)
        texts.append(" ".join(words))
    return texts, names


def check(texts, labels):
    return label_noise(texts, labels, [f"x:{row}" for row in range(len(texts))], near_duplicate_groups(texts))


@pytest.mark.parametrize("labels", [("negative", "positive"), ("negative", "neutral", "positive")])
def test_flipped_labels_are_found(labels):
    texts, true = rows(600, labels)
    given = list(true)
    flipped = random.Random(1).sample(range(600), 30)
    for row in flipped:
        given[row] = labels[(labels.index(true[row]) + 1) % len(labels)]
    found = check(texts, given)
    assert found["checked"] == 600
    assert found["skipped"] is None
    assert found["left_out_labels"] == []
    listed = [int(row["place"][2:]) for row in found["rows"]]
    assert len(listed) == len(set(listed)) == min(found["suspects"], MAX_LISTED)
    assert len(set(listed[:20]) & set(flipped)) == 20
    assert len(set(listed) & set(flipped)) >= 22
    for row in found["rows"][:20]:
        place = int(row["place"][2:])
        assert (row["given"], row["likelier"]) == (given[place], true[place])
        assert 0.5 < row["confidence"] <= 1
    assert found["sure"] >= sum(row["confidence"] > SURE for row in found["rows"])
    assert json.loads(json.dumps(found)) == found


def test_the_order_of_rows_does_not_matter():
    texts, labels = rows(300)
    labels[7], labels[100] = "positive", "positive"
    found = check(texts, labels)
    backwards = check(texts[::-1], labels[::-1])
    assert [row | {"place": f"x:{299 - int(row['place'][2:])}"} for row in backwards["rows"]] == found["rows"]
    assert backwards["suspects"] == found["suspects"] > 0


def test_near_duplicates_do_not_vouch_for_each_other():
    texts, labels = rows(400)
    wrong = "this is a lovely warm and great film with a good cast that nobody should ever miss at all"
    texts += [f"{wrong} {number}" for number in range(12)]
    labels += ["negative"] * 12
    found = check(texts, labels)
    assert {f"x:{row}" for row in range(400, 412)} <= {row["place"] for row in found["rows"]}


def test_what_cannot_be_checked_is_skipped_with_its_reason():
    texts, labels = rows(199)
    assert check(texts, labels)["skipped"] == "fewer than 200 rows"
    assert check([], [])["skipped"] == "fewer than two labels have 20 different texts each"
    texts, labels = rows(400)
    assert check(texts, ["same"] * 400)["skipped"] == "fewer than two labels have 20 different texts each"
    same = ["the very same words in every row of this label"] * 50
    found = check([*texts[::2], *same], [*labels[::2], *["copied"] * 50])
    assert found["skipped"] == "fewer than two labels have 20 different texts each"
    assert found["left_out_labels"] == ["copied"]
    many = [f"{number} of many" for number in range(51 * 20)]
    assert check(many, [str(number % 51) for number in range(len(many))])["skipped"] == "more than 50 labels"


def test_rare_labels_are_left_out():
    texts, labels = rows(300)
    labels[:19] = ["rare"] * 19
    found = check(texts, labels)
    assert found["left_out_labels"] == ["rare"]
    assert found["checked"] == 281
    assert "rare" not in {row["given"] for row in found["rows"]} | {row["likelier"] for row in found["rows"]}


def test_large_data_are_sampled(monkeypatch):
    texts, labels = rows(900)
    labels[:25] = ["rare"] * 25  # often enough in all rows, but not in the sample
    monkeypatch.setattr(module, "_MAX_ROWS", 400)
    found = check(texts, labels)
    assert found["left_out_labels"] == ["rare"]
    assert 370 < found["checked"] < 400
    monkeypatch.setattr(module, "_MAX_WORK", 900)
    found = check(texts, labels)
    assert 280 < found["checked"] < 300


def test_a_suspect_is_at_least_as_probable_as_usual_for_that_label(monkeypatch):
    texts = [f"text {number}" for number in range(200)]
    order = module.order_by_hash(texts, "peftkit-noise-1")
    positive = np.full(200, 0.2)
    positive[100:] = 0.8
    positive[[0, 1, 2]] = 0.7, 0.79, 0.81  # labelled negative; the mean of the others is 0.8
    monkeypatch.setattr(module, "_out_of_fold", lambda *_: np.stack((1 - positive, positive), axis=1))
    labels = [""] * 200
    for rank, row in enumerate(order):
        labels[row] = "negative" if rank < 100 else "positive"
    found = check(texts, labels)
    assert found["rows"] == [
        {"place": f"x:{order[2]}", "given": "negative", "likelier": "positive", "confidence": 0.81}
    ]
    assert (found["suspects"], found["sure"]) == (1, 0)


def test_probabilities_are_of_rows_not_trained_on():
    texts, labels = rows(300)
    number_of = np.array([label == "positive" for label in labels]).astype(int)
    alone = [f"unseen{row} words{row}" for row in range(300)]
    found = module._out_of_fold(alone, number_of, list(range(300)))
    assert found.shape == (300, 2)
    assert np.allclose(found.sum(axis=1), 1)
    assert np.abs(found - 0.5).max() < 0.2  # a model that had seen the row would be sure
    learned = module._out_of_fold(texts, number_of, list(range(300)))
    assert (learned.argmax(axis=1) == number_of).mean() > 0.95
