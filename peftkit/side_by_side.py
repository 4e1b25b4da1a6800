"""Base and adapters asked the same texts, each in its own recipe's wording, on one base model in memory."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.errors import ConfigError, DataError
from peftkit.ui import UI

if TYPE_CHECKING:
    from peftkit.adapter.trained import Trained

BASE = "base"
"""What the base model is called beside its adapters."""

_COLUMN = 22  # characters that a column needs at least, to be read


def compare_on_texts(
    adapters: Sequence[Path], texts: Sequence[str], *, base: bool = True, ui: UI | None = None
) -> list[dict[str, Any]]:
    """Answer texts with several adapters of one base model, and with the base model itself.

    Args:
        adapters: Folder of each adapter, or of the run that wrote it.
        texts: One text each.
        base: Whether the base model answers too. It is asked in the wording of each adapter; adapters that ask alike
            share one answer, `base`, and otherwise it is `base, asked as NAME`.
        ui: Where progress is shown.

    Returns:
        For each text: `text`, and `answers` by name, each as `peftkit.predict` gives it.

    Raises:
        PeftkitError: There is no text, or an adapter or the base model is not usable, or they cannot share it.
    """
    from peftkit.adapter.trained import open_adapters

    require_texts(texts)
    ui = ui or UI(quiet=True)
    names = adapter_names(adapters)
    trained = dict(zip(names, open_adapters(adapters, ui.note), strict=True))
    answers = {}
    if base:
        alike = _asked_alike(trained, texts)
        for first in alike:
            name = BASE if len(alike) == 1 else f"{BASE}, asked as {first}"
            answers[name] = trained[first].predict_without(texts)
    for name, one in trained.items():
        answers[name] = one.predict(texts)
    return [
        {"text": text, "answers": {name: given[place].as_json() for name, given in answers.items()}}
        for place, text in enumerate(texts)
    ]


def show_side_by_side(ui: UI, compared: Sequence[Mapping[str, Any]]) -> None:
    """Show what was compared: as a table where it fits, else one answer below the other."""
    names = list(compared[0]["answers"])
    if ui.width >= _COLUMN * (len(names) + 1):
        rows = [(row["text"], *(row["answers"][name]["answer"] for name in names)) for row in compared]
        ui.table(("text", *names), rows)
        return
    for row in compared:
        ui.say(row["text"], style="bold")
        for name in names:
            ui.say(f"  {name}: {row['answers'][name]['answer']}")


def require_texts(texts: Sequence[str]) -> None:
    """Raise `DataError` where there is no text, or one of them is blank."""
    if not texts or not all(text.strip() for text in texts):
        raise DataError("there is no text to answer; give one, or - and one a line on standard input")


def adapter_names(folders: Sequence[Path]) -> list[str]:
    """Name adapters by their folders: a run's folder where the adapter lies in one.

    Raises:
        ConfigError: Two have one name, or one is called as the base model is.
    """
    names = []
    for folder in folders:
        path = folder.resolve()
        name = path.parent.name if path.name == "adapter" else path.name
        names.append(re.sub(r"\s+", "-", name))
    for place, name in enumerate(names):
        if name == BASE or name in names[:place]:
            other = "the base model" if name == BASE else f"'{folders[names.index(name)]}'"
            raise ConfigError(
                f"the adapter in '{folders[place]}' would be called '{name}', as {other} is; rename its folder"
            )
    return names


def _asked_alike(trained: Mapping[str, Trained], texts: Sequence[str]) -> list[str]:
    """Return the first adapter of each group whose prompts, and the limits of whose answers, are the same."""
    from peftkit.evaluate.ask import prompt_example

    groups: dict[str, str] = {}
    for name, one in trained.items():
        config = one.passport.config
        room = config.evaluate.max_new_tokens
        prompts = [prompt_example(one.encoder, text, room=room).prompt_ids for text in texts]
        asked = repr((prompts, room, one.encoder.label_ids(), sorted(one.encoder.end_ids), config.task.separator))
        groups.setdefault(asked, name)
    return list(groups.values())
