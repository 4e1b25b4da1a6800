"""The base model's answers of a run that was stopped, so that they need not be computed again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peftkit.config import RunConfig
from peftkit.errors import OutputError
from peftkit.evaluate.answers import Answer
from peftkit.rundir import write_json

FILE = "before.json"


def kept_answers(
    folder: Path, config: RunConfig, identity: Mapping[str, Any], compute: Callable[[], list[Answer]]
) -> list[Answer]:
    """Return the answers that a folder keeps for these rows and settings; compute and keep them where it has none.

    Where they cannot be kept the run goes on: only a later start would be quicker with them.

    Args:
        folder: The checkpoints' folder.
        config: How rows are judged.
        identity: As `identify` returns it.
        compute: Asks the base model.
    """
    path = folder / FILE
    asked = {"identity": dict(identity), "evaluate": config.evaluate.model_dump(mode="json")}
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    found = _read(path, key)
    if found is None:
        found = compute()
        held = [asdict(one) for one in found]
        with suppress(OutputError):  # then they are computed again
            write_json(path, {"key": key, "sha256": _digest(held), "answers": held})
    return found


def forget_answers(folder: Path) -> None:
    """Take the kept answers away; a run that is finished holds them in `predictions.jsonl`."""
    with suppress(OSError):  # it is not there, or is nothing that this program wrote
        (folder / FILE).unlink()


def _read(path: Path, key: str) -> list[Answer] | None:
    try:
        held = json.loads(path.read_bytes())
        if held["key"] != key or held["sha256"] != _digest(held["answers"]):
            return None
        return [Answer(**{**one, "labels": one["labels"] and tuple(one["labels"])}) for one in held["answers"]]
    except (OSError, ValueError, KeyError, TypeError):  # they are computed again
        return None


def _digest(held: Any) -> str:
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()
