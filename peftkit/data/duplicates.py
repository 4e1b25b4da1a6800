"""Rows that say the same as others, and those of them whose labels contradict each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftkit.data.splits import normalize

MAX_EXAMPLES = 10
"""Groups that are listed of each kind, and rows that are listed of each group."""


def duplicates(
    texts: Sequence[str], labels: Sequence[str] | None, places: Sequence[str], groups: Sequence[int]
) -> dict[str, Any]:
    """Count rows with the same text or nearly the same, and find contradictions among their labels.

    Texts are the same if they are equal after `normalize`. A group of near-duplicates can be joined by a phrase alone,
    so that different labels there are a question, while different labels of the same text are an error or a matter of
    opinion: either way no model can learn both.

    Args:
        texts: One text per row.
        labels: One label per row, or None where rows have none.
        places: Where each row stands, such as `reviews.csv:17`.
        groups: The group of each row, from `near_duplicate_groups`.

    Returns:
        `exact`: sets of rows with one text; `near`: groups of rows with at least two different texts;
        `exact_conflicts` and `near_conflicts`: those of them with more than one label. Each has `groups` (number),
        `rows` (all rows of those groups) and `examples`, in the order of the rows: `places`, and `labels` if there are
        any.
    """
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    exact: list[list[int]] = []
    near: list[list[int]] = []
    for rows in members.values():
        if len(rows) == 1:
            continue
        same: dict[str, list[int]] = {}
        for row in rows:
            same.setdefault(normalize(texts[row]), []).append(row)
        exact += [equal for equal in same.values() if len(equal) > 1]
        if len(same) > 1:
            near.append(rows)

    def described(found: Sequence[list[int]]) -> dict[str, Any]:
        examples: list[Mapping[str, list[str]]] = []
        for rows in sorted(found)[:MAX_EXAMPLES]:
            shown = rows[:MAX_EXAMPLES]
            example = {"places": [places[row] for row in shown]}
            examples.append(example | ({"labels": [labels[row] for row in shown]} if labels is not None else {}))
        return {"groups": len(found), "rows": sum(map(len, found)), "examples": examples}

    def conflicting(found: Sequence[list[int]]) -> list[list[int]]:
        return [rows for rows in found if labels is not None and len({labels[row] for row in rows}) > 1]

    return {
        "exact": described(exact),
        "near": described(near),
        "exact_conflicts": described(conflicting(exact)),
        "near_conflicts": described(conflicting(near)),
    }
