"""What a recipe is, and how recipes are found.

A recipe is data plus a few pure functions: the columns it needs, the embedded rows it can start from, its defaults
and its presets. Recipes are plugins: each is registered under the entry-point group `peftkit.recipes`, the built-in
ones included, or given by path as one Python file that defines `recipe`.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from peftkit.errors import ConfigError
from peftkit.evaluate.metric import Metric

GROUP = "peftkit.recipes"


@dataclass(frozen=True)
class EmbeddedData:
    """Rows that need no account: where they come from, and how to read them.

    Attributes:
        name: What the rows are, for tables and the adapter's passport.
        asset: Name of the asset (`peftkit assets`) that holds them, or of what makes them on this machine.
        licence: Licence of the rows, an SPDX identifier.
        rows: Reads the rows; each is a mapping of the recipe's columns, or None for a row that is left out on purpose.
    """

    name: str
    asset: str
    licence: str
    rows: Callable[[], Iterable[Mapping[str, Any] | None]]


@dataclass(frozen=True)
class Preset:
    """Values for one size of machine.

    Attributes:
        summary: The machine it is meant for, in a few words.
        memory: Least accelerator memory in GiB; 0 where none is needed.
        values: Nested values that override the recipe's defaults.
    """

    summary: str
    memory: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """One task: what its rows hold, how it is asked, how it starts, how it is judged.

    Attributes:
        name: The word after `peftkit run`.
        summary: One line for `peftkit recipes`.
        columns: Each column that the recipe needs, with the usual names of it in people's files.
        metrics: What judges it: names of metrics (`peftkit.evaluate.metrics`), or its own. The first decides.
        defaults: Nested values over the defaults of `RunConfig`.
        presets: Values per size of machine; must hold `tiny`.
        embedded: Rows to start from without a file.
        intended_use: Sentence for the adapter's card.
    """

    name: str
    summary: str
    columns: Mapping[str, tuple[str, ...]]
    metrics: tuple[str | Metric, ...]
    defaults: Mapping[str, Any]
    presets: Mapping[str, Preset]
    embedded: EmbeddedData | None = None
    intended_use: str = ""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a recipe that could not run."""
        if "tiny" not in self.presets:
            raise ConfigError(f"recipe '{self.name}' has no preset 'tiny'; every recipe needs one that runs anywhere")


@dataclass(frozen=True)
class Listing:
    """What was found: usable recipes by name, and broken ones with their reasons."""

    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)


def is_recipe_file(name: str) -> bool:
    """Return whether a recipe is named by the path of a file, which is code that is then run."""
    return name.endswith(".py") or "/" in name


def load_recipe(name: str) -> Recipe:
    """Return the recipe of that name, or the one that the file at that path defines.

    Raises:
        ConfigError: There is no such recipe or file, or it is broken.
    """
    if is_recipe_file(name):
        return _from_file(Path(name))
    found = {point.name: point for point in _entry_points()}
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(sorted(found))}"
        raise ConfigError(f"there is no recipe '{name}'; {hint} (a recipe file is given by its path, ending in .py)")
    return _load(found[name])


def load_installed_recipe(name: str) -> Recipe:
    """Return the installed recipe of a name that an adapter gives, which may be anybody's: a file is not run for it.

    Raises:
        ConfigError: There is no such recipe, or it is given by its path.
    """
    if is_recipe_file(name):
        raise ConfigError(f"the adapter was trained with the recipe file '{name}', which is not run for an adapter")
    return load_recipe(name)


def list_recipes() -> Listing:
    """Load every registered recipe; one that fails is named with its reason and stops no other."""
    recipes: dict[str, Recipe] = {}
    broken: dict[str, str] = {}
    for point in _entry_points():
        try:
            recipes[point.name] = _load(point)
        except ConfigError as error:
            broken[point.name] = str(error)
    return Listing(recipes, broken)


def _entry_points() -> list[EntryPoint]:
    """Registered recipes by name; of two with one name the built-in one wins, so that no plugin shadows it."""
    points = sorted(entry_points(group=GROUP), key=lambda point: not point.value.startswith("peftkit_recipes."))
    unique: dict[str, EntryPoint] = {}
    for point in points:
        unique.setdefault(point.name, point)
    return [unique[name] for name in sorted(unique)]


def _load(point: EntryPoint) -> Recipe:
    try:
        recipe = point.load()
    except (Exception, SystemExit) as error:  # a plugin may fail in any way; the list must survive it
        raise ConfigError(f"recipe '{point.name}' ({point.value}) cannot be loaded: {error}") from error
    return _checked(recipe, f"recipe '{point.name}' ({point.value})")


def _from_file(path: Path) -> Recipe:
    try:
        found = path.is_file()
    except OSError as error:
        raise ConfigError(f"the recipe file '{path}' cannot be read: {error.strerror}") from error
    if not found:
        what = f"'{path}' is a folder, not a recipe file" if path.is_dir() else f"there is no recipe file '{path}'"
        raise ConfigError(f"{what}; give the name of a recipe or the path of a .py file")
    spec = importlib.util.spec_from_file_location(f"peftkit_user_recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"'{path}' is not a Python file; a recipe file ends in .py and defines `recipe`")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's file may fail in any way, or be a script
        raise ConfigError(f"recipe file '{path}' cannot be loaded: {type(error).__name__}: {error}") from error
    return _checked(getattr(module, "recipe", None), f"recipe file '{path}'")


def _checked(recipe: object, what: str) -> Recipe:
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"{what} does not define `recipe`, a peftkit.Recipe; write `recipe = Recipe(...)` in it")
    return recipe
