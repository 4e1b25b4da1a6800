"""What a solution's answer is, and whether it is right: the rules of PEFT's MetaMathQA comparison, told anew.

The markers are tried in an order, since a text may hold several; what stands behind the last one of a kind, up to the
end of its line, is the answer. Numbers are compared as numbers, fractions too, and everything else as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

MARKERS = ("The answer is: ", "The answer is ", "The final answer is: ", "The final answer is ", "#### ")
"""MetaMathQA's own, what models write in their stead, and GSM8K's."""


def answer_of(text: str) -> str | None:
    """Return a solution's answer; None where it names none."""
    text = text.strip().rstrip(".!?")
    marker = next((one for one in MARKERS if one in text), None)
    if marker is None:
        return None
    line, *_ = text.rpartition(marker)[2].strip().split("\n", 1)
    return line.strip(" .!?$%")


def is_right(solution: str, expected: str) -> bool:
    """Whether a solution has the answer of another one.

    Raises:
        ValueError: The expected solution names no answer.
    """
    given, wanted = answer_of(solution), answer_of(expected)
    if wanted is None:
        raise ValueError(f"no answer stands in the expected solution: {expected[-80:]!r}")
    if given is None:
        return False
    numbers = _number(given), _number(wanted)
    return numbers[0] == numbers[1] if None not in numbers else given == wanted


def accuracy(solutions: Sequence[str], expected: Sequence[str]) -> float:
    """Return the share of solutions that are right."""
    right = [is_right(one, other) for one, other in zip(solutions, expected, strict=True)]
    return sum(right) / len(right)


def _number(text: str) -> float | None:
    try:
        return float(Fraction(text.replace(" /", "/").replace("/ ", "/")))
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
