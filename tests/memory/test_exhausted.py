"""What an end of memory looks like, and what a failed attempt held."""

import pytest

from peftkit.memory.exhausted import HostMemoryLowError, give_back, is_out_of_memory

from .errors import gone


def test_what_a_failed_attempt_held_is_given_back():
    import weakref

    held = []

    class Big:
        pass

    def attempt():
        big = Big()
        held.append(weakref.ref(big))
        try:
            raise ValueError(big)
        except ValueError as error:
            raise gone("cpu") from error

    try:
        attempt()
    except RuntimeError as error:
        failure = give_back(error, "test")
        error.__cause__.args = ()
    assert failure.said.startswith("[enforce fail at alloc_cpu.cpp:124]")
    assert held[0]() is None


@pytest.mark.parametrize(
    "error", [gone(), gone("cpu"), MemoryError(), HostMemoryLowError("low"), OSError(12, "Cannot allocate memory")]
)
def test_what_is_out_of_memory(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes"), OSError(28, "No space left"), ValueError("x")])
def test_what_is_not(error):
    assert not is_out_of_memory(error)
