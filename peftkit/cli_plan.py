"""The command that forecasts a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from peftkit import machine
from peftkit.cli_options import Json
from peftkit.errors import DoesNotFitError

plan_app = typer.Typer()


@plan_app.command()
def plan(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or path of a .py or .yaml file.")],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, such as train.max_length=4096.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML file with settings.")] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="NAME", help="Values for one size of machine.")
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option("--gpu", metavar="CARD", help='A card or a size, such as "RTX 4090" or 24GB; several in turn.'),
    ] = None,
    apply: Annotated[
        Path | None, typer.Option("--apply", metavar="FILE.yaml", help="Write the settings with the best advice.")
    ] = None,
    maximum: Annotated[
        str | None,
        typer.Option("--max", metavar="KEY", help="Find the largest max_length, batch, rank or model that fits."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whether a run fits, how long it takes, and what to change."""
    from peftkit.plan.apply import require_file, write_chosen
    from peftkit.plan.cards import find_card
    from peftkit.resolve import resolve
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    # Mistakes are told before the large libraries are imported.
    if apply is not None:
        require_file(apply)
    resolved = resolve(recipe, words=words or (), file=config, preset=preset)
    for word in gpu or ():
        find_card(word)
    with machine.without_collector():
        from peftkit.plan.plan import plan_run
        from peftkit.plan.screen import misfit, show_plan

        found = plan_run(resolved, gpu or (), maximum)
    if as_json:
        ui.json(found.as_json())
    else:
        show_plan(ui, found)
    if apply is not None:
        write_chosen(found, apply)
        ui.say(f"wrote {apply}; then: peftkit run {apply}")
    elif (said := misfit(found)) is not None:
        raise DoesNotFitError(said)
