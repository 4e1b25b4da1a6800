"""The commands that hand an adapter on; `peftkit.cli` adds them to its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

share_app = typer.Typer()

Adapter = Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of an adapter, or of a run.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]


@share_app.command()
def card(
    adapter: Adapter,
    only_print: Annotated[bool, typer.Option("--print", help="Print the card, and write nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a card that peftkit did not write.")] = False,
) -> None:
    """Write an adapter's model card, README.md, from its passport."""
    from peftkit.adapter.card import CARD, checked_card, renew_card
    from peftkit.adapter.passport import read_passport
    from peftkit.merge.given import adapter_folder
    from peftkit.ui import UI

    ui = UI()
    folder = adapter_folder(adapter)
    if only_print:
        ui.lines(checked_card(folder, read_passport(folder)).rstrip("\n"))
        return
    renew_card(folder, force=force)
    ui.say(f"wrote {folder / CARD}")
