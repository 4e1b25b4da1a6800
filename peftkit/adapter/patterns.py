"""Regular expressions of adapters that others made: only those whose search is quick whatever the text.

PEFT matches them against the names of all modules with Python's `re`, which can be made to search for years. How many
ways of matching a name it may have to try is bounded here from the pattern's parts, before it is used at all.
"""

from __future__ import annotations

import importlib
import re
import warnings
from typing import Any

LONGEST = 20_000
"""Most characters of a pattern."""
_NAME = 128  # characters of a module's name; few are longer
MOST_WAYS = 400_000
"""Most ways of matching one name that may have to be tried; they take milliseconds."""
_MANY = 10**12
_parser: Any = importlib.import_module("re._parser")


def require_quick(pattern: str) -> float:
    """Refuse a pattern that is none, or whose search could take long.

    Returns:
        A bound of the ways of matching one name that may have to be tried.

    Raises:
        ValueError: It is, with the reason.
    """
    if len(pattern) > LONGEST:
        raise ValueError(f"is a pattern of {len(pattern)} characters, and {LONGEST} are read at most")
    if re.fullmatch(r"[\w.-]*", pattern):
        return 1.0  # a name: nothing in it repeats
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", (FutureWarning, DeprecationWarning))
            parsed = _parser.parse(pattern)
        ways = _ways_of(list(parsed))
    except (re.error, OverflowError, FutureWarning, DeprecationWarning) as error:
        raise ValueError(f"is no pattern: {error}") from error
    except RecursionError as error:
        raise ValueError("is a pattern that is nested too deeply") from error
    if ways > MOST_WAYS:
        raise ValueError("is a pattern whose search could take very long")
    return ways


def _ways_of(items: list[Any]) -> float:
    """Bound the number of ways in which a sequence can match one name.

    Each part that may be longer or shorter multiplies the ways by the number of places where it can end: no more than
    the plain text behind it can occur. k such parts share one name, in whose order they stand, so that only one in k!
    of all combinations is possible.
    """
    ways, repeats = 1.0, 0
    for place, (kind, value) in enumerate(items):
        name = str(kind)
        if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            least, most, body = value
            inner = _ways_of(list(body))
            if most > 1 and inner > 1:
                return _MANY  # a repetition of what can match in several ways: exponential
            if most > 1 and most > least:
                repeats += 1
                spread = min(int(most) - int(least) + 1, _NAME)
                ways *= min(spread, _NAME / _text_after(items, place)) / repeats
            else:
                ways *= inner * (1 + int(most > least))
        elif name == "BRANCH":
            ways *= _ways_of_branches([list(branch) for branch in value[1]])
        elif name == "SUBPATTERN":
            ways *= _ways_of(list(value[3]))
        elif name in ("ASSERT", "ASSERT_NOT"):
            ways *= _ways_of(list(value[1]))
        elif name == "ATOMIC_GROUP":
            ways *= _ways_of(list(value))
        elif name in ("GROUPREF", "GROUPREF_EXISTS"):
            return _MANY
        if ways >= _MANY:
            return _MANY
    return max(1.0, ways)


def _ways_of_branches(branches: list[list[Any]]) -> float:
    """Bound the ways of alternatives: those that can match at one place add up, others exclude each other."""
    inner = [_ways_of(branch) for branch in branches]
    texts = [_text(branch) for branch in branches]
    if any(text is None for text in texts):
        return sum(inner)
    # Of plain texts those match at one place of which each begins with the one before.
    words = sorted(text for text in texts if text is not None)
    most, chain = 1, [words[0]]
    for word in words[1:]:
        while chain and not word.startswith(chain[-1]):
            chain.pop()
        chain.append(word)
        most = max(most, len(chain))
    return float(most)


def _text(items: list[Any]) -> str | None:
    """Return what a sequence matches if that is one text, else None."""
    if any(str(kind) != "LITERAL" for kind, _ in items):
        return None
    return "".join(chr(value) for _, value in items)


def _text_after(items: list[Any], place: int) -> int:
    """Return how many characters of plain text follow an item at least; 1 where none do."""
    length = 0
    for kind, value in items[place + 1 :]:
        name = str(kind)
        if name == "LITERAL":
            length += 1
            continue
        inside = [list(value[3])] if name == "SUBPATTERN" else value[1] if name == "BRANCH" else ()
        texts = [_text(list(one)) for one in _unfolded(inside)]
        if texts and all(texts):
            length += min(len(text) for text in texts if text)
        break
    return max(1, length)


def _unfolded(branches: Any) -> list[Any]:
    """Return the alternatives of a group that holds nothing else."""
    found = [list(one) for one in branches]
    if len(found) == 1 and len(found[0]) == 1 and str(found[0][0][0]) == "BRANCH":
        return [list(one) for one in found[0][0][1][1]]
    return found
