"""The replay of torch's CUDA allocator goes by its published rules."""

from peftkit.plan.allocator import MIB, Allocator, replay
from peftkit.plan.ledger import Block, Trace


def test_sizes_are_rounded_and_segments_shared() -> None:
    allocator = Allocator()
    small = [allocator.take(100), allocator.take(1000)]
    assert [one.size for one in small] == [512, 1024]
    assert allocator.reserved == 2 * MIB
    allocator.take(3 * MIB)
    assert allocator.reserved == 22 * MIB  # a segment of 20 MiB, of which the rest is free
    allocator.take(5 * MIB)
    assert allocator.reserved == 22 * MIB
    allocator.take(13 * MIB)
    assert allocator.reserved == 36 * MIB  # one of its own, in steps of 2 MiB
    assert allocator.used == 36 * MIB


def test_neighbours_that_are_free_become_one() -> None:
    allocator = Allocator()
    pieces = [allocator.take(4 * MIB) for _ in range(5)]
    assert allocator.reserved == 20 * MIB
    for one in (pieces[0], pieces[2], pieces[1]):
        allocator.give(one)
    whole = allocator.take(12 * MIB - 1)
    assert whole.size == 12 * MIB
    assert allocator.reserved == 20 * MIB


def test_pieces_between_what_is_kept_are_of_no_use_to_larger_ones() -> None:
    allocator = Allocator()
    pieces = [allocator.take(4 * MIB) for _ in range(5)]
    for one in pieces[::2]:
        allocator.give(one)
    allocator.take(6 * MIB)
    assert allocator.reserved == 40 * MIB
    for one in pieces[1::2]:
        allocator.give(one)
    assert allocator.used == 20 * MIB  # the first segment could be given back


def test_a_trace_is_replayed_by_training_and_judging() -> None:
    blocks = [
        Block(30 * MIB, 0, None, "weights"),
        Block(50 * MIB, 1, 2, "", "forward pass"),
        Block(80 * MIB, 3, 4, "", "evaluation"),
    ]
    taken = replay(Trace(blocks, events=[0, 1, -2, 2, -3]), "evaluation")
    assert taken.training == 80 * MIB
    assert taken.evaluation == 110 * MIB
    assert taken.reserved == 160 * MIB
