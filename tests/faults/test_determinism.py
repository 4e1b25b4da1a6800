"""The same configuration gives the same adapter folder, byte for byte, wherever and by whomever it is trained."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

import pytest

from .children import adapter_of
from .world import WORDS

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


@pytest.mark.parametrize("places", [PLACES[:2], pytest.param(PLACES, marks=pytest.mark.slow)], ids=["two", "ten"])
def test_the_adapter_is_the_same_everywhere(places, tiny_model, reviews, tmp_path):
    first, *others = [adapter(place, tmp_path, tiny_model, reviews) for place in places]
    assert {"adapter_config.json", "adapter_model.safetensors", "peftkit.json", "README.md"} <= first.keys()
    for place, other in zip(places[1:], others, strict=True):
        assert {name for name in first | other if first.get(name) != other.get(name)} == set(), place
