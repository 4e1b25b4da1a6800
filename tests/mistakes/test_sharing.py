"""Mistakes with adapters that are handed on."""

from pathlib import Path

from ..merge.adapters import make_adapter
from .exercise import Case, Command, Place, check_case, table


def bare(place: Place) -> Path:
    """An adapter of PEFT's two files, without a passport."""
    return make_adapter(place.model, place.folder / "bare")


CARD = [
    Case("card of nothing", lambda place: ["card", "nosuch"], 5, ("no adapter folder 'nosuch'",)),
    Case("card without a passport", lambda place: ["card", bare(place)], 5, ("has no passport (peftkit.json)",)),
    Case("printed card of nothing", lambda place: ["card", "nosuch", "--print"], 5, ("no adapter folder 'nosuch'",)),
]
PUSH = [
    Case("pushing nothing", lambda place: ["push", "nosuch", "./there"], 5, ("no adapter folder 'nosuch'",)),
    Case("pushing without a passport", lambda place: ["push", bare(place), "./there"], 5, ("has no passport",)),
    Case("a tag for a folder", lambda place: ["push", "a", "./there", "--tag", "v1"], 2, ("--tag", "'./there'")),
    Case("an unknown kind of place", lambda place: ["push", bare(place), "hf:name"], 2, ("write hf:owner/name",)),
    Case("one word too few", lambda place: ["push", bare(place)], 2, ("TARGET",)),
    Case(
        "no such token file",
        lambda place: ["push", "a", "hf:owner/name", "--token-file", "nosuch"],
        2,
        ("--token-file 'nosuch' cannot be read",),
    ),
]
PULL = [
    Case("pulling nothing", lambda place: ["pull", "./nosuch", "out"], 5, ("'nosuch' cannot be read",)),
    Case("pulling no adapter", lambda place: ["pull", place.model, "out"], 5, ("has no peftkit.json",)),
    Case("pulling over something", lambda place: ["pull", "./a", place.model], 6, ("is not written over",)),
    Case("pulling offline", lambda place: ["pull", "hf:owner/name", "out"], 10, ("HF_HUB_OFFLINE=1 is set",)),
    Case("a revision of a folder", lambda place: ["pull", "./a", "out", "--revision", "v1"], 2, ("--revision",)),
    Case("a missing library", lambda place: ["pull", "s3://bucket/name", "out"], 9, ("Install s3fs",)),
]


@table(*CARD, *PUSH, *PULL)
def test_mistake_with_sharing(case: Case, place: Place, command: Command) -> None:
    check_case(case, place, command)
