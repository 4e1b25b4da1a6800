"""The search for pairs against one that compares each text with each."""

import hashlib
import random
from collections import Counter

import numpy as np
import pytest

from peftkit.data import shingles
from peftkit.data.shingles import Sketches, near_pairs


def shingle_hash(words):
    values = [int.from_bytes(hashlib.sha256(word.encode()).digest()[:8]) for word in words]
    factors = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
    return sum(value * factor for value, factor in zip(values, factors, strict=True)) % 2**64


def pairs_one_by_one(texts, threshold, most, in_most):
    """What `near_pairs` promises, with sets: sketches of at most `most` shingles, each in at most `in_most` texts."""
    sets = []
    for text in texts:
        words = text.split()
        every = sorted({shingle_hash(words[place : place + 3]) for place in range(len(words) - 2)})
        sets.append((set(every[:most]), every[most - 1] if len(every) > most else 2**64))
    holders = Counter(shingle for kept, _ in sets for shingle in kept)
    sets = [({shingle for shingle in kept if holders[shingle] <= in_most}, bound) for kept, bound in sets]
    found = set()
    for one, (kept, bound) in enumerate(sets):
        for other, (other_kept, other_bound) in enumerate(sets[:one]):
            both = {shingle for shingle in kept | other_kept if shingle <= min(bound, other_bound)}
            common = kept & other_kept
            if common and len(common) >= threshold * len(both):
                found.add((one, other))
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("threshold", [0.05, 0.3, 1.0])
def test_pairs_are_those_found_one_by_one(monkeypatch, seed, threshold):
    monkeypatch.setattr(shingles, "MAX_SHINGLES", 12)
    monkeypatch.setattr(shingles, "MAX_SHINGLE_TEXTS", 5)
    monkeypatch.setattr(shingles, "_PRODUCTS", 40)  # many pieces
    monkeypatch.setattr(shingles, "_KNOWN_WORDS", 3)
    rng = random.Random(seed)
    texts = []
    for _ in range(80):
        if texts and rng.random() < 0.6:
            words = rng.choice(texts).split()
            place = rng.randrange(len(words) + 1)
            words[place : place + rng.randrange(3)] = rng.choices("abcdef", k=rng.randrange(3))
        else:
            words = rng.choices("abcdef", k=rng.choice((0, 2, 3, 8, 30)))
        texts.append(" ".join(words))
    found = [tuple(pair) for pair in near_pairs(Sketches.of(texts), threshold).T.tolist()]
    expected = pairs_one_by_one(texts, threshold, 12, 5)
    assert expected
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_a_sketch_holds_all_or_the_smallest():
    words = [f"w{number}" for number in range(200)]
    sketches = Sketches.of(["w1 w2 w3 w1 w2 w3", "", " ".join(words)])
    assert sketches.starts.tolist() == [0, 3, 3, 3 + shingles.MAX_SHINGLES]
    every = sorted(shingle_hash(words[place : place + 3]) for place in range(198))
    assert sketches.shingles[3:].tolist() == every[: shingles.MAX_SHINGLES]
    assert sketches.bounds.tolist() == [2**64 - 1, 2**64 - 1, every[shingles.MAX_SHINGLES - 1]]


def test_counts_up_to_a_bound():
    sketches = Sketches(np.array([1, 5, 9, 2, 7], np.uint64), np.array([0, 3, 3, 5], np.int64), np.zeros(3, np.uint64))
    bounds = np.array([0, 1, 5, 8, 99, 4, 2, 6, 7], np.uint64)
    texts = np.array([0, 0, 0, 0, 0, 1, 2, 2, 2])
    assert sketches.count_up_to(bounds, texts).tolist() == [0, 1, 2, 2, 3, 0, 1, 1, 2]
    fewer = sketches.without(np.array([1, 3]))
    assert fewer.shingles.tolist() == [1, 9, 7]
    assert fewer.starts.tolist() == [0, 2, 2, 3]
