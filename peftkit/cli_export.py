"""The command that writes adapters and models for other programs; `peftkit.cli` adds it to its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from peftkit.cli_options import Json
from peftkit.errors import ConfigError

if TYPE_CHECKING:
    from peftkit.merge.record import Onto

export_app = typer.Typer()

FORMS = ("portable", "gguf-lora", "gguf", "mlx", "ollama")


@export_app.command()
def export(
    adapter: Annotated[
        Path, typer.Argument(metavar="ADAPTER", help="Folder of an adapter or a run; of a model for gguf and ollama.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder; a .gguf file for gguf and gguf-lora.")],
    to: Annotated[str, typer.Option("--to", metavar="FORM", help=f"{', '.join(FORMS)}.")],
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype", help="What numbers are written in: f32, f16, bf16, and for gguf and ollama q8_0 to q4_0."
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="The base model, if not the one the adapter names.")
    ] = None,
    onto: Annotated[
        str | None,
        typer.Option(
            "--onto",
            metavar="original|trained",
            help="Of gguf and ollama: add to the weights as stored, or as training saw them, which is the default.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Of gguf and ollama: take another base than the adapter's, and say so.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write an adapter, or the model that it makes, for other programs."""
    from peftkit.export.export import export as export_adapter
    from peftkit.ui import UI

    if to not in FORMS:
        raise ConfigError(f"--to {to} is not one of {', '.join(FORMS)}")
    ui = UI(as_json=as_json)
    report = export_adapter(adapter, out, to=to, dtype=dtype, base=base, onto=_onto(onto), force=force, ui=ui)
    if as_json:
        ui.json(report)


def _onto(word: str | None) -> Onto | None:
    if word in (None, "original", "trained"):
        return word  # type: ignore[return-value]
    raise ConfigError(f"--onto {word} is not one of original, trained")
