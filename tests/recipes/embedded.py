"""The rows that a recipe starts from."""

from collections.abc import Mapping
from typing import Any

import pytest

from peftkit.model.assets import ASSETS, available
from peftkit.recipe import load_recipe


def rows_of(name: str) -> tuple[list[Mapping[str, Any] | None], list[Mapping[str, Any]]]:
    """Return all embedded rows of a recipe, and those that are used; skip the test if they are not in the cache."""
    embedded = load_recipe(name).embedded
    assert embedded is not None
    if embedded.asset in ASSETS and not available(ASSETS[embedded.asset]):
        pytest.skip(f"{embedded.asset} is not in the cache; `peftkit assets fetch` gets it")
    rows = list(embedded.rows())
    return rows, [row for row in rows if row is not None]
