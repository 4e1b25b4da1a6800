"""Runs peftkit's command line as it runs where nothing is installed but what it declares, and what that declares."""

import re
import sys
import tomllib
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(lines: list[str], found: set[str]) -> set[str]:
    """Names of the distributions that pip installs for these requirements."""
    for one in map(Requirement, lines):
        wanted = [extra for extra in ("", *one.extras) if one.marker is None or one.marker.evaluate({"extra": extra})]
        if not wanted or (normal(one.name) in found and not one.extras):
            continue
        found.add(normal(one.name))
        try:
            more = requires(one.name) or []
        except PackageNotFoundError:
            continue
        for extra in ("", *one.extras):
            parts = [(line.partition(";")[0], Requirement(line).marker) for line in more]
            installed([name for name, marker in parts if not marker or marker.evaluate({"extra": extra})], found)
    return found


class OnlyThese:
    """Finds modules as `PathFinder` does, but for those of other distributions."""

    find_distributions = staticmethod(PathFinder.find_distributions)

    def __init__(self, hidden: set[str]) -> None:
        self.hidden = hidden

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.hidden else PathFinder.find_spec(name, path, target)


if __name__ == "__main__":
    declared = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    there = installed(declared, {"peftkit"})
    hidden = {name for name, of in packages_distributions().items() if there.isdisjoint(map(normal, of))}
    assert "pytest" in hidden, "nothing is hidden"
    sys.meta_path[sys.meta_path.index(PathFinder)] = OnlyThese(hidden)

    from peftkit.cli import main

    main()
