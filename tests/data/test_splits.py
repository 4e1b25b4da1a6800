import hashlib
import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit.data.splits import assign_splits, near_duplicate_groups, normalize, order_by_hash

FOX = "The quick brown fox jumps over the lazy dog near the river bank today"


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Well-made, FUNNY  film!", "well made funny film"),
        ("\ufb01ne\t\uff21\uff22", "fine ab"),
        ("Straße", "strasse"),
        ("2+3", "2 + 3"),
        ("great😀", "great 😀"),
        ("映画です。", "映 画 で す"),
        ("हिन्दी फ़िल्म", "हिन्दी फ़िल्म"),
        ("!!!", "!!!"),
        ("", ""),
    ],
)
def test_normalize(text, normal):
    assert normalize(text) == normal


def test_every_character_is_spaced_as_its_category_says():
    spaced = {chr(code): normalize(f"a{chr(code)}b") for code in range(33, 127)}
    assert "".join(one for one, text in spaced.items() if text == f"a {one} b") == "$+<=>|~"
    assert "".join(one for one, text in spaced.items() if text == "a b") == "!\"#%&'()*,-./:;?@[\\]^_`{}"
    assert normalize("x<=y") == "x < = y"


def test_equal_after_normalising_share_a_group():
    assert near_duplicate_groups(["Nice one!", "other", "nice  ONE", "", "Other.", ""]) == [0, 1, 0, 3, 1, 3]


@pytest.mark.parametrize(
    ("changed", "near"),
    [
        (FOX.replace("brown", "red"), True),
        (FOX.replace(" lazy", ""), True),
        (FOX.replace("quick", "very quick").replace("bank", "side"), True),
        (FOX + ". And more was said of it", True),
        ("A quick brown cat sleeps under the big tree near the house all day", False),
        (" ".join(reversed(FOX.split())), False),
    ],
)
def test_small_edits_are_near_duplicates(changed, near):
    assert near_duplicate_groups([FOX, changed]) == [0, 0 if near else 1]


def test_threshold_is_met_exactly():
    # 1 shingle in common, 3 in all.
    assert near_duplicate_groups(["a b c d", "b c d e"], threshold=1 / 3) == [0, 0]
    assert near_duplicate_groups(["a b c d", "b c d e"], threshold=0.34) == [0, 1]


def test_texts_of_two_words_match_only_when_equal():
    assert near_duplicate_groups(["good film", "good movie", "good", "Good film"]) == [0, 1, 2, 0]


def test_groups_join_over_a_chain():
    words = [f"w{index}" for index in range(30)]
    windows = [" ".join(words[start : start + 12]) for start in (0, 4, 8, 12)]
    assert near_duplicate_groups(windows) == [0, 0, 0, 0]
    assert near_duplicate_groups([windows[0], windows[3]]) == [0, 1]


def test_long_texts_are_compared_by_sketches():
    rng = random.Random(0)
    words = [rng.choice("abcdefghij") + str(rng.randrange(500)) for _ in range(2000)]
    edited = list(words)
    for index in range(0, 2000, 40):
        edited[index] = "changed"
    fresh = [rng.choice("abcdefghij") + str(rng.randrange(500)) for _ in range(2000)]
    tenth = words[:200]
    texts = [" ".join(part) for part in (words, edited, fresh, tenth)]
    assert near_duplicate_groups(texts) == [0, 0, 2, 3]


def test_a_common_phrase_joins_nothing():
    texts = [f"classify the sentiment of the following review x{index} y{index} z{index}" for index in range(300)]
    assert near_duplicate_groups(texts) == list(range(300))


def test_lone_surrogates_are_taken():
    texts = ["a \ud800 b c d e", "a \ud800 b c d e!"]
    groups = near_duplicate_groups(texts)
    assert groups == [0, 0]
    assert len(assign_splits(texts, groups, validation=0.1, test=0.1)) == 2
    assert sorted(order_by_hash(texts, "s")) == [0, 1]


WORDS = st.sampled_from(["a", "b", "c", "d", "E", "f!", "g,", "h"])
TEXTS = st.lists(st.lists(WORDS, max_size=9).map(" ".join), max_size=14)


def _split_of(texts):
    groups = near_duplicate_groups(texts)
    return groups, assign_splits(texts, groups, validation=0.3, test=0.3)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_groups_are_named_by_their_smallest_index_and_never_divided(texts):
    groups, splits = _split_of(texts)
    for index, group in enumerate(groups):
        assert group <= index
        assert groups[group] == group
        assert splits[index] == splits[group]
    normals = {}
    for text, group in zip(texts, groups, strict=True):
        assert normals.setdefault(normalize(text), group) == group


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(texts, rng):
    order = list(range(len(texts)))
    rng.shuffle(order)
    groups, splits = _split_of(texts)
    shuffled_groups, shuffled_splits = _split_of([texts[index] for index in order])
    assert shuffled_splits == [splits[index] for index in order]
    partition = Counter(frozenset(i for i in order if groups[i] == group) for group in set(groups))
    shuffled = Counter(
        frozenset(order[i] for i in range(len(order)) if shuffled_groups[i] == group) for group in set(shuffled_groups)
    )
    assert partition == shuffled


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS)
def test_added_rows_move_only_the_groups_that_they_join(old, new):
    groups, splits = _split_of(old)
    all_groups, all_splits = _split_of([*old, *new])
    joined = set(all_groups[len(old) :])
    for index in range(len(old)):
        assert all_groups[index] == all_groups[groups[index]]
        if all_groups[index] not in joined:
            assert all_groups[index] == groups[index]
            assert all_splits[index] == splits[index]


def test_splits_are_the_same_on_every_machine():
    texts = [f"row number {index}" for index in range(12)]
    splits = assign_splits(texts, list(range(12)), validation=0.25, test=0.25)
    assert "".join(split[1] for split in splits) == "eeeaaeaererr"
    other = assign_splits(texts, list(range(12)), validation=0.25, test=0.25, salt="other")
    assert other != splits
    assert order_by_hash(texts[:6], "first") == [5, 1, 3, 2, 0, 4]


def _synthetic(rows):
    rng = random.Random(1)
    return [" ".join(f"w{rng.randrange(3000)}" for _ in range(15)) for _ in range(rows)]


def test_shares_are_met_and_groups_do_not_bias_them():
    texts = _synthetic(5000)
    groups = near_duplicate_groups(texts)
    assert groups == list(range(5000))
    alone = Counter(assign_splits(texts, groups, validation=0.05, test=0.1))
    assert alone["test"] == pytest.approx(500, abs=80)
    assert alone["validation"] == pytest.approx(250, abs=60)
    fives = [index - index % 5 for index in range(5000)]
    grouped = Counter(assign_splits(texts, fives, validation=0.05, test=0.1))
    assert grouped["test"] == pytest.approx(500, abs=200)


def test_shares_of_nothing_and_everything():
    texts = [str(index) for index in range(50)]
    assert set(assign_splits(texts, range(50), validation=0, test=0)) == {"train"}
    assert set(assign_splits(texts, range(50), validation=0, test=1)) == {"test"}
    assert assign_splits([], [], validation=0.1, test=0.1) == []
    with pytest.raises(ValueError, match="2 texts, but groups of 1"):
        assign_splits(["a", "b"], [0], validation=0.1, test=0.1)


def test_order_by_hash_does_not_depend_on_the_files_order():
    texts = _synthetic(50)
    taken = [texts[index] for index in order_by_hash(texts, "s")]
    backwards = texts[::-1]
    assert [backwards[index] for index in order_by_hash(backwards, "s")] == taken
    assert taken != sorted(taken)
    assert [backwards[index] for index in order_by_hash(backwards, "t")] != taken


def test_edited_copies_among_thousands_are_caught():
    rng = random.Random(2)
    texts = _synthetic(10_000)
    copies = []
    for text in texts[:500]:
        words = text.split()
        words[rng.randrange(len(words))] = "changed"
        copies.append(" ".join(words))
    assert near_duplicate_groups(texts + copies)[10_000:] == list(range(500))


def test_groups_and_splits_of_earlier_runs_stay():
    # Written down before the search was made faster: short texts, long ones (sketches), common phrases, repeats.
    rng = random.Random(4)
    words = [f"w{index}" for index in range(400)]
    base = [" ".join(rng.choices(words, k=rng.choice((3, 9, 40, 300)))) for _ in range(300)]
    texts = []
    for index in range(900):
        changed = base[index % 300].split()
        for _ in range(rng.randrange(6)):
            changed[rng.randrange(len(changed))] = rng.choice(words)
        texts.append("in my own humble opinion " * (index % 5 == 0) + " ".join(changed))
    groups = near_duplicate_groups(texts)
    splits = assign_splits(texts, groups, validation=0.2, test=0.2)
    assert len(set(groups)) == 550
    assert hashlib.sha256(json.dumps([groups, splits]).encode()).hexdigest()[:16] == "02f95252c1abb348"
