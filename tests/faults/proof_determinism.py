"""Ten runs with other hash seeds, folders, hosts, time zones, users and languages leave the same adapter."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..small import write_model, write_reviews
from .rows import Case
from .test_determinism import PLACES, Place, adapter


def cases(full: bool) -> Iterator[Case]:
    """Give each of the places, to be compared with the first one; in short one of them."""
    for place in PLACES[1:] if full else PLACES[1:2]:
        yield Case(f"hash seed {place.hash_seed} on {place.host[:20]}", partial(prove, place))


def prove(place: Place, folder: Path) -> None:
    """Train twice, at the first place and at another one."""
    model, reviews = folder / "model", folder / "rows.jsonl"
    write_model(model)
    write_reviews(reviews)
    first, other = (adapter(one, folder, model, reviews) for one in (PLACES[0], place))
    assert {name for name in first | other if first.get(name) != other.get(name)} == set()
