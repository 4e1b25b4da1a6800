"""Which of many texts share enough shingles (runs of three words), found without comparing each with each.

The shingles of all texts are sorted as one array of hashes, so that those in several texts stand side by side. A sparse
matrix of texts by shared shingles, times its transpose, then counts what each two texts have in common.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_SHINGLE_TEXTS = 100
"""A shingle in more different texts than this is phrasing of the collection, and counts for none of them."""

MAX_SHINGLES = 128
"""Of a text with more shingles than this, those with the smallest hashes stand for all (a bottom-k sketch)."""

_ALL = np.uint64(2**64 - 1)
_FACTORS = tuple(np.uint64(factor) for factor in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))

# These bound memory: hashes of words met again, products of the sparse matrix at once, parts that are sorted alone.
_KNOWN_WORDS = 1 << 18
_PRODUCTS = 1 << 20
_PARTS = 16


@dataclass(frozen=True, slots=True)
class Sketches:
    """The shingles of n texts as 64-bit hashes: of each text all of them, or all up to its bound."""

    shingles: NDArray[np.uint64]
    """Those of the first text in ascending order, then those of the second, and so on."""

    starts: NDArray[np.int64]
    """Shape (n + 1,): text `i` has `shingles[starts[i] : starts[i + 1]]`."""

    bounds: NDArray[np.uint64]
    """Shape (n,)."""

    @classmethod
    def of(cls, texts: Iterable[str]) -> Sketches:
        """Sketch texts whose words are separated by single spaces."""
        words = _WordHashes()
        shingles, lengths, bounds = array("Q"), array("q", [0]), array("Q")
        for text in texts:
            hashes = np.frombuffer(b"".join(map(words.__getitem__, text.split())), ">u8").astype(np.uint64)
            first, second, third = _FACTORS
            runs = hashes[:-2] * first + hashes[1:-1] * second + hashes[2:] * third
            runs.sort()
            different = runs[np.append(True, runs[1:] != runs[:-1])] if len(runs) else runs
            kept = different[:MAX_SHINGLES]
            shingles.frombytes(kept.tobytes())
            lengths.append(len(kept))
            bounds.append(int(kept[-1] if len(different) > MAX_SHINGLES else _ALL))
            if len(words) > _KNOWN_WORDS:
                words.clear()
        return cls(
            np.frombuffer(shingles, np.uint64),
            np.cumsum(np.frombuffer(lengths, np.int64)),
            np.frombuffer(bounds, np.uint64),
        )

    def without(self, places: NDArray[np.int64]) -> Sketches:
        """Leave out what stands at these places of `shingles`."""
        kept = np.ones(len(self.shingles), bool)
        kept[places] = False
        lost = np.bincount(self.text_at(places), minlength=len(self.bounds))
        starts = self.starts - np.concatenate(([0], np.cumsum(lost)))
        return Sketches(self.shingles[kept], starts, self.bounds)

    def text_at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which text the shingle at each place is of."""
        return np.searchsorted(self.starts, places, side="right") - 1

    def count_up_to(self, bounds: NDArray[np.uint64], texts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many shingles of each text are at most its bound, by a binary search in all of them at once."""
        low, high = self.starts[texts], self.starts[texts + 1]
        while (open_ := low < high).any():
            middle = (low + high) // 2
            below = open_ & (self.shingles[np.minimum(middle, len(self.shingles) - 1)] <= bounds)
            low, high = np.where(below, middle + 1, low), np.where(open_ & ~below, middle, high)
        return low - self.starts[texts]


def near_pairs(sketches: Sketches, threshold: float) -> NDArray[np.int64]:
    """Find the pairs of texts whose shingles have a Jaccard similarity of at least `threshold`.

    Args:
        sketches: Those of texts that differ from each other.
        threshold: Least shingles in common divided by the shingles of both, above 0.

    Returns:
        The greater and the smaller index of each pair, shape (2, pairs).
    """
    sketches, matrix = _shared(sketches)
    transposed = matrix.T.tocsr()
    products = np.concatenate(([0], np.cumsum(matrix @ np.diff(transposed.indptr).astype(np.int64))))
    sizes = np.diff(sketches.starts)
    found = [np.empty((2, 0), np.int64)]
    first = 0
    while first < len(sizes):
        last = max(first + 1, int(np.searchsorted(products, products[first] + _PRODUCTS, side="right")) - 1)
        overlaps = (matrix[first:last] @ transposed).tocoo()
        one, other, overlap = overlaps.row.astype(np.int64) + first, overlaps.col.astype(np.int64), overlaps.data
        first = last
        swap = sketches.bounds[one] > sketches.bounds[other]
        narrow, wide = np.where(swap, other, one), np.where(swap, one, other)
        # The union holds at least the shingles of the narrow one, so most pairs of long texts end here.
        likely = (other < one) & (overlap >= threshold * sizes[narrow])
        one, other, narrow, wide, overlap = (values[likely] for values in (one, other, narrow, wide, overlap))
        union = sizes[narrow] - overlap + sketches.count_up_to(sketches.bounds[narrow], wide)
        near = overlap >= threshold * union
        found.append(np.stack((one[near], other[near])))
    return np.concatenate(found, axis=1)


def _shared(sketches: Sketches) -> tuple[Sketches, Any]:
    """Return sketches without what is in too many texts, and a sparse matrix of texts by shingles of several texts."""
    from scipy.sparse import csr_matrix

    places, columns = _in_several(sketches.shingles)
    common = np.bincount(columns)[columns] > MAX_SHINGLE_TEXTS
    rows, columns = sketches.text_at(places[~common]), columns[~common]
    ones = np.ones(len(rows), np.int16)  # at most `MAX_SHINGLES` are added up
    shape = (len(sketches.bounds), int(columns.max(initial=-1)) + 1)
    return sketches.without(places[common]), csr_matrix((ones, (rows, columns)), shape=shape)


def _in_several(shingles: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of the values that stand more than once, and a number from 0 on for the value at each place."""
    pieces: list[NDArray[np.int64]] = []
    numbers: list[NDArray[np.int64]] = []
    known = 0
    residues = shingles.view(np.uint8)[::8] % _PARTS  # of one byte of each hash
    for part in range(_PARTS):
        places = np.flatnonzero(residues == part)
        places = places[np.argsort(shingles[places])]
        ordered = shingles[places]
        new = np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]
        several = ~new | ~np.append(new, True)[1:]
        number = np.cumsum(new[several]) - 1 + known
        known = int(number.max(initial=known - 1)) + 1
        pieces.append(places[several])
        numbers.append(number)
    return np.concatenate(pieces), np.concatenate(numbers)


class _WordHashes(dict[str, bytes]):
    """Hashes of words, filled as they are met."""

    def __missing__(self, word: str) -> bytes:
        # A lone surrogate is no reason to fail here.
        digest = hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()[:8]
        self[word] = digest
        return digest
