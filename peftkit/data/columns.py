"""Match the columns that a recipe wants with the columns that a file has."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from peftkit.data.rows import shown
from peftkit.errors import ConfigError, DataError

_MAX_LISTED = 20


def choose_columns(
    available: Sequence[str], wanted: Mapping[str, Sequence[str]], given: Mapping[str, str]
) -> dict[str, str]:
    """Choose a column of the file for each wanted one.

    What the user gave wins, then a column of exactly the wanted name, then one whose name differs in case, spaces,
    hyphens or underscores only, then one of the usual aliases, compared in the same way. A column serves one purpose:
    one that is given or exactly named for another is no candidate for an alias.

    Args:
        available: The file's columns.
        wanted: Wanted column to its usual aliases, such as `{"text": ("sentence", "review")}`.
        given: Wanted column to the file's column, as set by `data.columns.text=review`.

    Returns:
        Wanted column to the file's column, in the order of `wanted`.

    Raises:
        ConfigError: `given` names a column that is not wanted.
        DataError: A column is missing, not in the file, ambiguous, or chosen twice.
    """
    for name, column in given.items():
        if name not in wanted:
            advice = _near(name, wanted) or f"use {_listed(wanted)}"
            raise ConfigError(f"data.columns.{name} sets a column that the recipe does not use; {advice}")
        if column not in available:
            advice = _near(column, available) or "take one of the file's"
            raise DataError(
                f"data.columns.{name}={column}: no such column in the file, which has {_listed(available)}; {advice}"
            )
    chosen = {name: given.get(name, name) for name in wanted if name in given or name in available}
    free = [column for column in available if column not in chosen.values()]
    for name, aliases in wanted.items():
        if name not in chosen:
            chosen[name] = _find_column(name, aliases, free, available)
    _check_each_serves_once(chosen)
    return {name: chosen[name] for name in wanted}


def _find_column(name: str, aliases: Sequence[str], free: Sequence[str], available: Sequence[str]) -> str:
    for names in ([name], aliases):
        keys = {_key(alias) for alias in names}
        found = [column for column in free if _key(column) in keys]
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(
                f"column '{name}' can be {' or '.join(map(shown, found))} of the file; "
                f"choose with data.columns.{name}={found[0]}"
            )
    raise DataError(
        f"no column of the file is known as '{name}': it has {_listed(available)}; "
        f"name the right one with data.columns.{name}=<column>"
    )


def _check_each_serves_once(chosen: Mapping[str, str]) -> None:
    purposes: dict[str, str] = {}
    for name, column in chosen.items():
        if (other := purposes.setdefault(column, name)) != name:
            raise DataError(
                f"column {shown(column)} of the file would be both '{other}' and '{name}'; "
                f"set data.columns.{other} and data.columns.{name} to different columns"
            )


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _near(name: str, known: Iterable[str]) -> str:
    by_key = {_key(other): other for other in known}
    found = difflib.get_close_matches(_key(name), by_key, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(shown(by_key[key]) for key in found)}?" if found else ""


def _listed(columns: Iterable[str]) -> str:
    names = [shown(column) for column in columns]
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more if names else "none"
