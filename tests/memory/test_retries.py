"""Smaller batches for the same rows of a step."""

from peftkit.memory.retries import smaller_batch


def test_the_next_numbers_that_divide_a_step():
    assert smaller_batch(6, 1) == (3, 2)
    assert smaller_batch(3, 2) == (1, 6)
    assert smaller_batch(7, 1) == (1, 7)
    assert smaller_batch(7, 2) == (2, 7)
    assert smaller_batch(16, 4) == (8, 8)
    assert smaller_batch(1, 8) is None
