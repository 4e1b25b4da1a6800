"""What may be wrong with usable rows: their labels, rows that repeat or contradict others, and personal data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from peftkit.data.duplicates import duplicates
from peftkit.data.label_noise import SURE, label_noise
from peftkit.data.personal import personal_data

IMBALANCE = 10
"""From this ratio of the largest label to the smallest a caution is given."""

REPEATED_SHARE = 0.01
"""From this share of rows that repeat others, or nearly do with another label, a caution is given."""

SURE_SHARE = 0.004
"""From this share of rows with a surely suspected label a caution is given: good labels of hard texts stay below."""


def quality_report(
    texts: Sequence[str], labels: Sequence[str] | None, places: Sequence[str], groups: Sequence[int]
) -> dict[str, Any]:
    """Run every check.

    Args:
        texts: One text per row.
        labels: One label per row, or None where rows have none.
        places: Where each row stands, such as `reviews.csv:17`.
        groups: The group of each row, from `near_duplicate_groups`.

    Returns:
        `rows` (number), `labels` (`label_imbalance`, or None), `duplicates`, `label_noise` (or None) and
        `personal_data`: plain values that can be written as JSON.
    """
    return {
        "rows": len(texts),
        "labels": None if labels is None else label_imbalance(labels),
        "duplicates": duplicates(texts, labels, places, groups),
        "label_noise": None if labels is None else label_noise(texts, labels, places, groups),
        "personal_data": personal_data(texts, places),
    }


def label_imbalance(labels: Sequence[str]) -> dict[str, Any]:
    """Count rows by label.

    Returns:
        `counts`: label to rows, the most frequent first; `largest_share`: of all rows; `ratio`: rows of the largest
        label divided by those of the smallest. Both are None where there are no rows.
    """
    counts = dict(sorted(Counter(labels).items(), key=lambda item: (-item[1], item[0])))
    sizes = list(counts.values())
    return {
        "counts": counts,
        "largest_share": sizes[0] / len(labels) if sizes else None,
        "ratio": sizes[0] / sizes[-1] if sizes else None,
    }


def quality_cautions(report: Mapping[str, Any]) -> list[str]:
    """Say in one sentence each what deserves a look in the result of `quality_report`, the gravest first."""
    return [
        *_about_personal_data(report["personal_data"]),
        *_about_duplicates(report["duplicates"], report["rows"]),
        *(_about_labels(report["labels"]) if report["labels"] else ()),
        *(_about_noise(report["label_noise"]) if report["label_noise"] else ()),
    ]


def _about_personal_data(found: Mapping[str, Any]) -> list[str]:
    if not found["rows"]:
        return []
    kinds = "; ".join(
        f"{kind}: {entry['count']:,}, first in {entry['places'][0]}" for kind, entry in found["kinds"].items()
    )
    rows = "1 row seems" if found["rows"] == 1 else f"{found['rows']:,} rows seem"
    return [f"{rows} to hold personal data or secrets, which a model can repeat ({kinds}); remove or mask them"]


def _about_duplicates(found: Mapping[str, Any], total: int) -> list[str]:
    cautions = []
    if (conflicts := found["exact_conflicts"])["groups"]:
        texts = "1 text stands" if conflicts["groups"] == 1 else f"{conflicts['groups']:,} texts stand"
        cautions.append(
            f"{texts} in several rows with different labels (first: {_first(conflicts)}); decide for one label"
        )
    if (conflicts := found["near_conflicts"])["rows"] > REPEATED_SHARE * total:
        cautions.append(
            f"{conflicts['rows']:,} rows are nearly the same as others that have another label (first: "
            f"{_first(conflicts)}); see whether both labels are meant"
        )
    repeated = (exact := found["exact"])["rows"] - exact["groups"]
    if repeated > REPEATED_SHARE * total:
        rows = "1 row repeats" if repeated == 1 else f"{repeated:,} rows repeat"
        cautions.append(
            f"{rows} the text of an earlier row (first: {_first(exact)}); such texts weigh more in training"
        )
    return cautions


def _about_labels(found: Mapping[str, Any]) -> list[str]:
    counts = found["counts"]
    if len(counts) == 1:
        return [
            f"every row has the label '{next(iter(counts))}', so there is nothing to tell apart; add rows of others"
        ]
    if not counts or found["ratio"] < IMBALANCE:
        return []
    largest, smallest = next(iter(counts)), next(reversed(counts))
    return [
        f"label '{largest}' has {counts[largest]:,} rows and '{smallest}' {counts[smallest]:,}; always answering "
        f"'{largest}' would be right in {found['largest_share']:.0%}, so look at macro F1 rather than accuracy"
    ]


def _about_noise(found: Mapping[str, Any]) -> list[str]:
    if found["sure"] < max(1, SURE_SHARE * found["checked"]):
        return []
    first = found["rows"][0]
    labels = "1 label contradicts" if found["sure"] == 1 else f"{found['sure']:,} labels contradict"
    return [
        f"{labels} a quick word model that gives another one at least {SURE:.0%}, of {found['checked']:,} checked; not "
        f"all of them are wrong: read them, first {first['place']} ('{first['given']}', likelier '{first['likelier']}')"
    ]


def _first(found: Mapping[str, Any]) -> str:
    return " and ".join(found["examples"][0]["places"][:2])
