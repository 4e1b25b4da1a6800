"""What torch's CUDA allocator takes from the card for a sequence of allocations and releases.

The rules are those of torch 2.13's `CUDACachingAllocator`: sizes go up to multiples of 512 bytes; up to 1 MiB comes
from segments of 2 MiB; up to 10 MiB from segments of 20 MiB; more from a segment of its own, in steps of 2 MiB. The
smallest free block that fits is taken, and cut if more than 1 MiB (512 bytes among small ones) would be left of it.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass

from peftkit.plan.ledger import Trace

MIB = 1 << 20
_ROUND = 512
_SMALL, _SMALL_SEGMENT = MIB, 2 * MIB
_LARGE, _LARGE_SEGMENT = 10 * MIB, 20 * MIB
_STEP = 2 * MIB


@dataclass(eq=False, slots=True)
class _Segment:
    """What was taken from the card at once, and how many parts of it are in use."""

    size: int
    used: int = 0


@dataclass(eq=False, slots=True)
class _Piece:
    """A part of a segment, with its neighbours in it."""

    size: int
    small: bool
    segment: _Segment
    before: _Piece | None = None
    after: _Piece | None = None
    free: bool = False


class Allocator:
    """Keeps segments and their parts.

    Attributes:
        reserved: Bytes taken from the card: the most that there ever are, since it gives nothing back by itself.
        used: Bytes of segments in use now. A card with the most that these ever are is enough: where it has no more,
            torch gives back the segments that are not in use.
    """

    def __init__(self) -> None:
        self.reserved = self.used = 0
        self._free: dict[bool, list[tuple[int, int, _Piece]]] = {True: [], False: []}
        self._count = 0

    def take(self, size: int) -> _Piece:
        """Allocate so many bytes."""
        size = max(_ROUND, -(-size // _ROUND) * _ROUND)
        small = size <= _SMALL
        piece = self._find(size, small) or self._segment(size, small)
        left = piece.size - size
        if left >= _ROUND if small else left > _SMALL:
            rest = _Piece(left, small, piece.segment, piece, piece.after)
            if piece.after is not None:
                piece.after.before = rest
            piece.size, piece.after = size, rest
            self._release(rest)
        piece.free = False
        segment = piece.segment
        self.used += 0 if segment.used else segment.size
        segment.used += 1
        return piece

    def give(self, piece: _Piece) -> None:
        """Release what was allocated, and join it with free neighbours."""
        piece.segment.used -= 1
        self.used -= 0 if piece.segment.used else piece.segment.size
        for other in (piece.before, piece.after):
            if other is not None and other.free:
                self._drop(other)
                if other is piece.before:
                    piece.before = other.before
                    if other.before is not None:
                        other.before.after = piece
                else:
                    piece.after = other.after
                    if other.after is not None:
                        other.after.before = piece
                piece.size += other.size
        self._release(piece)

    def _find(self, size: int, small: bool) -> _Piece | None:
        held = self._free[small]
        low, high = 0, len(held)
        while low < high:
            middle = (low + high) // 2
            if held[middle][0] < size:
                low = middle + 1
            else:
                high = middle
        return held.pop(low)[2] if low < len(held) else None

    def _segment(self, size: int, small: bool) -> _Piece:
        taken = _SMALL_SEGMENT if small else _LARGE_SEGMENT if size < _LARGE else -(-size // _STEP) * _STEP
        self.reserved += taken
        return _Piece(taken, small, _Segment(taken))

    def _release(self, piece: _Piece) -> None:
        piece.free = True
        self._count += 1
        insort(self._free[piece.small], (piece.size, self._count, piece))

    def _drop(self, piece: _Piece) -> None:
        held = self._free[piece.small]
        held.pop(next(place for place, one in enumerate(held) if one[2] is piece))


@dataclass(frozen=True)
class Taken:
    """What torch's allocator has of a card.

    Attributes:
        training: Bytes that it must have for training.
        evaluation: Bytes that it must have for judging held-out rows.
        reserved: Bytes that it takes for both, if there are as many.
    """

    training: int
    evaluation: int
    reserved: int


def replay(trace: Trace, judging: str, rounds: int = 2) -> Taken:
    """Do what a trace did with torch's allocator, over several steps that are all as the traced one.

    Args:
        trace: A traced step, in which nothing was released before the model was there.
        judging: What the names of phases begin with in which held-out rows are judged.
        rounds: How often the step is done; what the first one leaves in pieces shows in the second.
    """
    allocator = Allocator()
    held: dict[int, _Piece] = {}
    needed = {False: 0, True: 0}
    for number in range(rounds):
        for event in trace.events:
            place = event if event >= 0 else -event - 1
            block = trace.blocks[place]
            stays = block.born == 0 or block.died is None
            if stays and number:
                continue
            if event >= 0:
                held[place] = allocator.take(block.size)
                judged = block.phase.startswith(judging)
                needed[judged] = max(needed[judged], allocator.used)
            elif place in held:
                allocator.give(held.pop(place))
    return Taken(needed[False], needed[True], allocator.reserved)
