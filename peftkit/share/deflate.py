"""DEFLATE streams (RFC 1951) whose bytes depend on nothing but the data.

zlib's own output differs between zlib, zlib-ng and their versions, so two machines would make two packs of one adapter.
Here each block of 65,535 bytes is coded by a Huffman code of its own, without looking for repetitions: weights have
none. In bfloat16 the exponents are few, which saves about a fifth. Every zip program reads the result.
"""

from __future__ import annotations

import heapq
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    import numpy as np

BLOCK = 65_535
"""Bytes of a block: the most that one without a code can hold."""
_END = 256  # the symbol that ends a block
_LONGEST = 15  # bits of a code for a byte
_LONGEST_OF_LENGTHS = 7  # bits of a code for a code's length
_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)  # RFC 1951, 3.2.7


class Deflated(NamedTuple):
    """What was written: bytes before and after, and the CRC-32 of the bytes before."""

    size: int
    compressed: int
    crc: int


def deflate(source: BinaryIO, write: Callable[[bytes], object]) -> Deflated:
    """Compress a stream, block by block.

    Args:
        source: Read to its end.
        write: Takes the compressed bytes.
    """
    size = compressed = crc = 0
    bits = _Bits()
    block = source.read(BLOCK)
    while True:
        following = source.read(BLOCK)
        out = bits.block(block, last=not following)
        write(out)
        size, compressed, crc = size + len(block), compressed + len(out), zlib.crc32(block, crc)
        if not following:
            return Deflated(size, compressed, crc)
        block = following


class _Bits:
    """Blocks as bits, least significant first; those that fill no byte yet are kept for the next block."""

    def __init__(self) -> None:
        import numpy as np

        self._left = np.zeros(0, np.uint8)

    def block(self, data: bytes, *, last: bool) -> bytes:
        """Return a block's bytes: coded, or as they are where a code would not be shorter."""
        import numpy as np

        coded = np.concatenate([self._left, _coded(data, last=last)])
        if len(coded) // 8 > len(data) + 5:
            head = np.concatenate([self._left, _number(int(last), 3)])
            whole = np.packbits(head, bitorder="little").tobytes()  # a block without a code starts at a byte
            self._left = coded[:0]
            return whole + struct.pack("<HH", len(data), len(data) ^ 0xFFFF) + data
        full = len(coded) if last else len(coded) - len(coded) % 8
        self._left = coded[full:]
        return np.packbits(coded[:full], bitorder="little").tobytes()


def _coded(data: bytes, *, last: bool) -> np.ndarray:
    """Return a block with a code of its own as bits, uint8 of zeros and ones."""
    import numpy as np

    symbols = np.frombuffer(data, np.uint8)
    counts = [*np.bincount(symbols, minlength=256).tolist(), 1]
    lengths = code_lengths(counts, _LONGEST)
    # The lengths of all codes, and of the one code of distances, which is none, are coded themselves.
    listed = [*lengths, 0]
    own = code_lengths(np.bincount(listed, minlength=19).tolist(), _LONGEST_OF_LENGTHS)
    count = max(place for place, symbol in enumerate(_ORDER) if own[symbol]) + 1
    head = [_number(int(last) | 2 << 1, 3), _number(0, 5), _number(0, 5), _number(count - 4, 4)]
    head += [_number(own[symbol], 3) for symbol in _ORDER[:count]]
    table, used = _codes(own)
    head += [table[one][used[one]] for one in listed]
    table, used = _codes(lengths)
    body = table[symbols][used[symbols]]
    return np.concatenate([*head, body, table[_END][used[_END]]])


def code_lengths(counts: Sequence[int], longest: int) -> list[int]:
    """Return the length of each symbol's Huffman code in bits, 0 for one that does not occur.

    Where a code would be longer than it may be, counts are halved until none is. Ties go by the symbols' order.

    Args:
        counts: How often each symbol occurs.
        longest: Most bits of a code.
    """
    counts = list(counts)
    while True:
        heap: list[tuple[int, int, tuple[int, ...]]] = [
            (count, symbol, (symbol,)) for symbol, count in enumerate(counts) if count
        ]
        lengths = [0] * len(counts)
        if len(heap) == 1:
            lengths[heap[0][1]] = 1
            return lengths
        heapq.heapify(heap)
        made = len(counts)
        while len(heap) > 1:
            (one, _, left), (other, _, right) = heapq.heappop(heap), heapq.heappop(heap)
            for symbol in left + right:
                lengths[symbol] += 1
            heapq.heappush(heap, (one + other, made, left + right))
            made += 1
        if max(lengths) <= longest:
            return lengths
        counts = [(count + 1) // 2 for count in counts]


def _codes(lengths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return each symbol's code, its first bit first, and which of the entries are part of it (RFC 1951, 3.2.2).

    Returns:
        uint8 and bool, both of shape (symbols, longest code).
    """
    import numpy as np

    longest = max(lengths)
    table = np.zeros((len(lengths), longest), np.uint8)
    used = np.arange(longest)[None, :] < np.array(lengths)[:, None]
    code = 0
    for length in range(1, longest + 1):
        for symbol in (place for place, one in enumerate(lengths) if one == length):
            table[symbol, :length] = [code >> (length - 1 - bit) & 1 for bit in range(length)]
            code += 1
        code <<= 1
    return table, used


def _number(value: int, bits: int) -> np.ndarray:
    """Return a number as bits, least significant first."""
    import numpy as np

    return np.array([value >> bit & 1 for bit in range(bits)], np.uint8)


def inflate(source: Iterator[bytes], most: int) -> Iterator[bytes]:
    """Decompress a stream, with bounded memory.

    Args:
        source: Its pieces; all of them must belong to it.
        most: The bytes that it may give at most.

    Raises:
        ValueError: It gives more, is damaged or cut, or something follows it.
    """
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    given = 0
    for piece in source:
        waiting, more = piece, True
        while more:
            try:
                out = engine.decompress(waiting, BLOCK)
            except zlib.error as error:
                raise ValueError("is damaged") from error
            given += len(out)
            if given > most:
                raise ValueError("holds more than it states")
            if engine.unused_data:
                raise ValueError("has something behind its end")
            if out:
                yield out
            waiting = engine.unconsumed_tail
            more = bool(out or waiting)  # all input may be taken in before all output is given out
    if not engine.eof:
        raise ValueError("ends too early")
