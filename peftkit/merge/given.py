"""Adapters as they are named on the command line: a folder, and how much of its change is taken."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple

from peftkit.errors import AdapterError, ConfigError

_WEIGHT = re.compile(r"(.+):([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)", re.DOTALL)


class Weighted(NamedTuple):
    """An adapter's folder and how much of its change is taken."""

    folder: Path
    weight: float = 1.0

    @classmethod
    def parse(cls, word: str) -> Weighted:
        """Read `FOLDER` or `FOLDER:WEIGHT`; what follows the last colon is a weight only if it is a number.

        Raises:
            ConfigError: The weight is too large to be one.
        """
        found = _WEIGHT.fullmatch(word)
        if found is None or _is_folder(word):
            return cls(Path(word))
        weight = float(found[2])
        if not math.isfinite(weight):
            raise ConfigError(f"'{word}' has a weight that is not finite; give a number such as 0.5")
        return cls(Path(found[1]), weight)


def adapter_folder(folder: Path) -> Path:
    """Return the folder that holds an adapter's files: the one given, or `adapter` in the folder of a run.

    Raises:
        AdapterError: There is no such folder.
    """
    try:
        if not folder.is_dir():
            raise AdapterError(f"there is no adapter folder '{folder}'; give the folder of an adapter or of a run")
    except OSError as error:  # a name that is too long for the file system
        raise AdapterError(f"there is no adapter folder '{str(folder)[:80]}...'") from error
    inside = folder / "adapter"
    return (
        inside
        if (inside / "adapter_config.json").is_file() and not (folder / "adapter_config.json").exists()
        else folder
    )


def adapter_name(folder: Path) -> str:
    """Return what an adapter is called: the name of its folder, or of the run that it is in."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == "adapter" else folder.name


def _is_folder(word: str) -> bool:
    try:
        return Path(word).is_dir()
    except OSError:  # a name that is too long for the file system
        return False
