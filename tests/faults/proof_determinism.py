"""Ten runs with other hash seeds, folders, hosts, time zones, users and languages leave the same adapter."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..small import write_model, write_reviews
from .children import adapter_of
from .rows import Case
from .world import WORDS

_FOLDER = tempfile.TemporaryDirectory(prefix="peftkit-places-")
SETTINGS = (*WORDS, "train.save_steps=3", "data.path=reviews.jsonl")


@dataclass(frozen=True)
class Place:
    """What differs from run to run."""

    hash_seed: str
    folder: str
    host: str = "first"
    zone: str = "UTC"
    user: str = "ann"
    locale: str = "C.UTF-8"


PLACES = (
    Place("0", "a"),
    Place("1", "some where/else ü", "second", "Asia/Tokyo", "bob", "C"),
    Place("2", "b", host="third"),
    Place("3", "c", zone="America/St_Johns"),
    Place("4", "d", user="eve"),
    Place("5", "e", locale="POSIX"),
    Place("6", "deep/" * 20 + "f"),
    Place("7", "g", "x" * 60, "Pacific/Chatham"),
    Place("random", "h", "10.0.0.1", "Etc/GMT+12", "root"),
    Place("4294967295", "i", "localhost", "Europe/Berlin", "ann", "C"),
)


def can_change_host() -> bool:
    return shutil.which("unshare") is not None and not subprocess.run(["unshare", "-u", "true"], check=False).returncode


def adapter(place: Place, folder, model, reviews) -> dict[str, bytes]:
    """Train at a place, and return the files of the adapter."""
    here, home = folder / place.folder, folder / f"home of {place.user}"
    here.mkdir(parents=True)
    home.mkdir(exist_ok=True)
    shutil.copy(reviews, here / "reviews.jsonl")
    names = {"HOME": home, "USER": place.user, "LOGNAME": place.user, "TZ": place.zone, "HOSTNAME": place.host}
    names |= {"PYTHONHASHSEED": place.hash_seed, "LC_ALL": place.locale, "LANG": place.locale}
    command = [sys.executable, "-m", "peftkit", "run", "sentiment", f"model.path={model}", *SETTINGS, "--out", "run"]
    if can_change_host():
        command = ["unshare", "-u", "sh", "-c", 'hostname "$0" 2>/dev/null; exec "$@"', place.host, *command]
    environment = os.environ | {name: str(value) for name, value in names.items()}
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return adapter_of(here / "run")


def cases(full: bool) -> Iterator[Case]:
    """Give each of the places, to be compared with the first one; in short one of them."""
    for place in PLACES[1:] if full else PLACES[1:2]:
        yield Case(f"hash seed {place.hash_seed} on {place.host[:20]}", partial(prove, place))


@functools.cache
def at_the_first() -> tuple[Path, Path, dict[str, bytes]]:
    """Return a model, rows, and the adapter that the first place makes of them."""
    folder = Path(_FOLDER.name)
    model, reviews = write_model(folder / "model"), write_reviews(folder / "rows.jsonl")
    return model, reviews, adapter(PLACES[0], folder, model, reviews)


def prove(place: Place, folder: Path) -> None:
    """Train at another place than the first."""
    model, reviews, first = at_the_first()
    assert {"adapter_config.json", "adapter_model.safetensors", "peftkit.json", "README.md"} <= first.keys()
    other = adapter(place, folder, model, reviews)
    assert {name for name in first | other if first.get(name) != other.get(name)} == set()
