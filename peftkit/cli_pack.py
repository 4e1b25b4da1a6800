"""The commands that make one file of an adapter, take it apart, sign it and verify it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from peftkit.cli_options import Json
from peftkit.errors import ConfigError

pack_app = typer.Typer()


@pack_app.command()
def pack(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of an adapter, or of a run.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.peft.zip", help="File to write.")],
    dtype: Annotated[
        str, typer.Option("--dtype", help="bf16 halves float32, and is checked; float32 keeps all numbers as they are.")
    ] = "bf16",
    base: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="The base model to check with, if not the named one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Pack an adapter into one file to share.

    As bf16 it has half the size. Its bytes are the same wherever it is made, and nothing private is in it.
    """
    from peftkit.share.pack import pack as pack_adapter
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    report = pack_adapter(adapter, out, dtype=dtype, base=base, ui=ui)
    if as_json:
        ui.json(report)


@pack_app.command()
def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE.peft.zip", help="A packed adapter, from anybody.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    as_json: Json = False,
) -> None:
    """Unpack an adapter into a new folder.

    A file that is dangerous or damaged is refused, and leaves nothing behind.
    """
    from peftkit.share.unpack import unpack as unpack_adapter
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    report = unpack_adapter(file, out, ui=ui)
    if as_json:
        ui.json(report)


@pack_app.command()
def sign(
    what: Annotated[
        Path | None, typer.Argument(metavar="[ADAPTER|PACK]", help="Folder of an adapter or run, or a packed one.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="PRIVATE.pem", help="Your private key.")] = None,
    make_key: Annotated[
        Path | None,
        typer.Option("--new-key", metavar="FILE.pem", help="Make a pair of keys first; nothing is replaced."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign an adapter or a pack with your private key.

    Others verify every file of it with your public key.
    """
    from peftkit.share.sign import new_key
    from peftkit.share.sign import sign as sign_adapter
    from peftkit.ui import UI

    if (key is None) == (make_key is None) or (what is None and make_key is None):
        raise ConfigError("sign needs what to sign and --key PRIVATE.pem; make a key with: peftkit sign --new-key FILE")
    ui = UI(as_json=as_json)
    report = {} if make_key is None else {"public_key": str(new_key(make_key, ui=ui))}
    if what is not None:
        report |= sign_adapter(what, key or make_key or Path(), ui=ui)
    if as_json:
        ui.json(report)
