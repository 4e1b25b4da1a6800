"""The commands that hand an adapter on; `peftkit.cli` adds them to its own."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from peftkit.cli_options import Json

share_app = typer.Typer()

Adapter = Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of an adapter, or of a run.")]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="Hub: file with the token, if not that of `hf auth login`."),
]


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


@share_app.command()
def push(
    adapter: Adapter,
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="hf:owner/name, a folder, or an address such as s3://bucket/name.")
    ],
    public: Annotated[bool, typer.Option("--public", help="Hub: let everyone see it; else it is private.")] = False,
    tag: Annotated[
        str | None, typer.Option("--tag", help="Hub: name of the commit; by default by the weights' hash.")
    ] = None,
    message: Annotated[str | None, typer.Option("--message", help="Hub: message of the commit.")] = None,
    token_file: TokenFile = None,
    force: Annotated[bool, typer.Option("--force", help="Write where something is already.")] = False,
    as_json: Json = False,
) -> None:
    """Hand an adapter on: to the hub, a folder, or another place."""
    from peftkit.share.transfer import push as push_adapter
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    done = push_adapter(
        adapter, target, public=public, tag=tag, message=message, token_file=token_file, force=force, ui=ui
    )
    if as_json:
        ui.json(done)
        return
    ui.say(f"pushed {len(done['files'])} files to {done['place']}", style="bold")
    pinned = ""
    if "revision" in done:
        seen = "everyone can see it" if done["public"] else "it is private"
        tagged = f", tag {done['tag']}" if done["tag"] else ""
        ui.say(f"commit {done['revision']}{tagged}; {seen}")
        pinned = f" --revision {done['revision']}"
    ui.say(f"fetch it: peftkit pull {shlex.quote(done['place'])} adapter{pinned}")


@share_app.command()
def pull(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="hf:owner/name, a folder, or an address such as s3://bucket/name.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    revision: Annotated[
        str | None, typer.Option("--revision", help="Hub: commit, tag or branch; by default main.")
    ] = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Fetch an adapter, and check that it is whole."""
    from peftkit.share.transfer import pull as pull_adapter
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    done = pull_adapter(source, out, revision=revision, token_file=token_file, ui=ui)
    if as_json:
        ui.json(done)
        return
    at = f" at commit {done['revision']}" if "revision" in done else ""
    ui.say(f"{done['place']}{at}: {len(done['files'])} files, checked  ->  {out}", style="bold")
    ui.say(f'use it: peftkit predict {shlex.quote(str(out))} "your text"')
