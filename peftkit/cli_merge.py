"""The commands that merge adapters into base weights, and prove it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from peftkit.cli_options import Json
from peftkit.errors import AdapterError, ConfigError

if TYPE_CHECKING:
    from peftkit.merge.record import Onto

merge_app = typer.Typer()

Base = Annotated[
    str | None, typer.Option("--base", metavar="MODEL", help="The base model, if not the one that the adapter names.")
]
Rows = Annotated[int | None, typer.Option("--rows", min=1, help="Judge at most this many held-out rows.")]


@merge_app.command()
def merge(
    words: Annotated[
        list[str],
        typer.Argument(metavar="ADAPTER[:WEIGHT]... OUT", help="Folders of adapters or runs, then the new folder."),
    ],
    base: Base = None,
    onto: Annotated[
        str | None,
        typer.Option(
            "--onto",
            metavar="original|trained",
            help="Add to the weights as stored, or as training saw them; by default what is better on validation rows.",
        ),
    ] = None,
    quantize: Annotated[
        str | None,
        typer.Option("--quantize", metavar="nf4|fp4|int8", help="Quantize the merged weights once; onto original."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier merge; merge what would be refused, and note it.")
    ] = False,
    no_proof: Annotated[bool, typer.Option("--no-proof", help="Do not load the result to prove it.")] = False,
    rows: Rows = None,
    as_json: Json = False,
) -> None:
    """Merge adapters into the weights of their base model."""
    from peftkit.merge.given import Weighted
    from peftkit.merge.merge import ROWS
    from peftkit.merge.merge import merge as merge_adapters
    from peftkit.merge.screen import show_merge
    from peftkit.ui import UI

    if len(words) < 2:
        raise ConfigError(f"'{words[0]}' is the only folder; give the adapter and then the new folder to merge into")
    *adapters, out = words
    ui = UI(as_json=as_json)
    record = merge_adapters(
        [Weighted.parse(word) for word in adapters],
        Path(out),
        base=base,
        onto=_onto(onto),
        quantize=quantize,
        force=force,
        proof=not no_proof,
        rows=rows or ROWS,
        ui=ui,
    )
    if as_json:
        ui.json({"folder": out, **record})
    else:
        show_merge(ui, Path(out), record)


@merge_app.command()
def verify(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="MERGED|ADAPTER|PACK", help="A merged model, with --adapter; or what was signed: --key."
        ),
    ],
    adapters: Annotated[
        list[str] | None,
        typer.Option("--adapter", metavar="ADAPTER[:WEIGHT]", help="What was merged; several in turn."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="PUBLIC.pem", help="The signer's public key, of a signature.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="MODEL",
            help="The base model: of a merge if not the named one; of a signature to compare.",
        ),
    ] = None,
    onto: Annotated[
        str | None,
        typer.Option("--onto", metavar="original|trained", help="What it was merged onto, if merge.json does not say."),
    ] = None,
    rows: Rows = None,
    as_json: Json = False,
) -> None:
    """Prove a merged model (--adapter), or a signature (--key).

    With --adapter, a merged model is compared with what base and adapters make. With --key, the signature of an
    adapter or pack is verified: every file as it was signed, none added; with --base also that it belongs to a model.
    """
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    if (key is None) == (not adapters):
        raise ConfigError("verify needs --adapter for a merged model, or --key for a signature, and not both")
    if key is not None:
        from peftkit.share.sign import verify_signature

        if onto is not None or rows is not None:
            raise ConfigError("--onto and --rows are for a merged model, with --adapter; leave them out beside --key")
        report = verify_signature(folder, key, base=base, ui=ui)
        if as_json:
            ui.json(report)
        return
    from peftkit.merge.given import Weighted
    from peftkit.merge.merge import ROWS
    from peftkit.merge.merge import verify as verify_merge
    from peftkit.merge.screen import show_proof

    words = [Weighted.parse(word) for word in adapters or ()]
    proof = verify_merge(folder, words, base=base, onto=_onto(onto), rows=rows or ROWS, ui=ui)
    if as_json:
        ui.json(proof)
    else:
        show_proof(ui, proof)
    if proof["failures"]:
        raise AdapterError(f"'{folder}' is not what base and adapter make: {proof['failures'][0]}")


def _onto(word: str | None) -> Onto | None:
    if word in (None, "original", "trained"):
        return word  # type: ignore[return-value]
    raise ConfigError(f"--onto {word} is not one of original, trained")
