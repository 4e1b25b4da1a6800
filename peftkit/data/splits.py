"""Split rows by what they say, so that held-out rows and their near-duplicates are never trained on.

Two texts are near-duplicates if they are equal after normalising, or share enough of their shingles (runs of three
words): Jaccard similarity, the shingles in common divided by the shingles of both (Broder, "On the resemblance and
containment of documents", 1997). Groups are the connected parts of that relation.

What the method does not do:

- Two texts of one group need not be alike: a chain of alike texts may lie between them.
- A paraphrase in other words is not found, nor is a text of fewer than eight words with a word changed in its middle.
- A shingle in more than `MAX_SHINGLE_TEXTS` different texts counts as phrasing of the collection, not of a text. Give
  the row's own text, not the prompt made of it; more than that many variants of one sentence are told apart.
- Of a text with more than `MAX_SHINGLES` shingles, those with the smallest hashes stand for all: an estimate with a
  standard error of about 0.04. Both limits stand in `peftkit/data/shingles.py`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

import numpy as np

from peftkit.data.shingles import Sketches, near_pairs

Split = Literal["train", "validation", "test"]

# Spaced before `str.translate`, which is many times as fast where each ASCII character becomes a single one.
_ASCII_SYMBOLS = "$+<=>|~"
# Scripts written without spaces: each character is a word, or a sentence would be one word.
_UNSPACED = re.compile("([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")


def near_duplicate_groups(texts: Sequence[str], *, threshold: float = 0.3) -> list[int]:
    """Group texts that are the same or nearly so.

    One changed word inside a text of n words leaves a similarity of (n - 5) / (n + 1): 0.33 for 8 words, 0.7 for 19.
    A false pair costs little, as both rows only go to the same split; a missed pair is a leak. Hence the low default:
    among 10,072 movie-review snippets it joins 26 into 12 groups, about half of them mere phrases in common; of
    snippets with one, two or three words replaced at random it finds 94%, 86% and 75%, where 0.6 finds 81%, 43%
    and 15%. 100,000 texts of 200 words take about 10 s on one core, and 400 MB beside the texts.

    Args:
        texts: One text per row.
        threshold: Least Jaccard similarity of near-duplicates, above 0.

    Returns:
        For each text the smallest index of its group, whatever the order of the texts.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    numbers: dict[str, int] = {}
    number_of = [numbers.setdefault(normalize(text), len(numbers)) for text in texts]
    first = np.unique(number_of, return_index=True)[1]
    sketches = Sketches.of(numbers)
    del numbers  # as large as the texts
    one, other = near_pairs(sketches, threshold)
    links = coo_matrix((np.ones(len(one), np.int8), (one, other)), shape=(len(first), len(first)))
    parts = connected_components(links, directed=False)[1]
    smallest = np.unique(parts, return_index=True)[1]
    return [int(index) for index in first[smallest[parts[number_of]]]]


def assign_splits(
    texts: Sequence[str],
    groups: Sequence[int],
    *,
    validation: float,
    test: float,
    salt: str = "peftkit-split-1",
) -> list[Split]:
    """Assign each row to a split by a hash of its group, so that a group is never divided.

    A group is known by the smallest hash of its normalised texts. The order of rows does not matter, and rows that
    join no old group move no old row. A row that joins a group of n different texts becomes the smallest with
    probability 1 / (n + 1); then the whole group may change its split. A row that joins two groups makes them one.
    One more case: a row that takes a shingle of a group past `MAX_SHINGLE_TEXTS` texts makes it count no longer, so the
    group can fall apart and its rows can move, whether or not the new row joined it.

    The shares are expectations: with few rows or large groups a split can be off its share, or empty.

    Args:
        texts: One text per row.
        groups: The group of each text, from `near_duplicate_groups`.
        validation: Expected share of groups for validation.
        test: Expected share of groups that are held out.
        salt: Another salt makes another split.
    """
    if len(texts) != len(groups):
        raise ValueError(f"{len(texts)} texts, but groups of {len(groups)}")
    representatives: dict[int, bytes] = {}
    for text, group in zip(texts, groups, strict=True):
        digest = _sha256(normalize(text))
        representatives[group] = min(digest, representatives.get(group, digest))
    splits: dict[int, Split] = {}
    for group, digest in representatives.items():
        # Hashed once more: the smallest of several hashes is not uniform, and would favour the first split.
        position = int.from_bytes(_sha256(salt + digest.hex())[:8]) / 2**64
        splits[group] = "test" if position < test else "validation" if position < test + validation else "train"
    return [splits[group] for group in groups]


def order_by_hash(texts: Sequence[str], salt: str) -> list[int]:
    """Return the indices of the texts in the order of their hashes: the first N are a sample that is always the same.

    Equal texts keep the order that they have.
    """
    digests = [_sha256(salt + text) for text in texts]
    return sorted(range(len(texts)), key=digests.__getitem__)


def normalize(text: str) -> str:
    """Reduce a text to its words: NFKC, casefolded, with one space for any punctuation and white space.

    Symbols such as `+` or an emoji count as words of their own. A text of punctuation alone stays as it is.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    for symbol in _ASCII_SYMBOLS:
        folded = folded.replace(symbol, f" {symbol} ")
    return " ".join(folded.translate(_SEPARATED).split()) or folded.strip()


class _Separated(dict[int, str]):
    """A table for `str.translate` that is filled as characters are met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if category[0] in "PZC" or category == "Sk":
            self[code] = " "
        elif character in _ASCII_SYMBOLS:
            self[code] = character
        elif category[0] == "S" or _UNSPACED.match(character):
            self[code] = f" {character} "
        else:
            self[code] = character
        return self[code]


_SEPARATED = _Separated()


def _sha256(text: str) -> bytes:
    # A lone surrogate is no reason to fail here.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
