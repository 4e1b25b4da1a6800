"""The commands that answer with adapters: once, in a chat, and over the network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from peftkit.cli_options import Json
from peftkit.errors import ConfigError, DataError

answer_app = typer.Typer()

Adapter = Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of an adapter, or of a run.")]


@answer_app.command()
def predict(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[ADAPTER] TEXT", help="The adapter if --adapter names none, and texts; - reads one a line."
        ),
    ],
    adapters: Annotated[
        list[Path] | None, typer.Option("--adapter", metavar="ADAPTER", help="An adapter; give it again for several.")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Show the base model's answers beside.")] = False,
    as_json: Json = False,
) -> None:
    """Answer texts with one adapter, or with several side by side."""
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    folders, texts = (adapters, words) if adapters else ([Path(words[0])], words[1:])
    if not texts:
        raise ConfigError(f"predict got '{words[0]}' and no text; give ADAPTER and then TEXT, or - for standard input")
    if texts == ["-"]:
        lines = _standard_input()
        texts = [line for line in lines if line.strip()]
        if len(texts) < len(lines):
            ui.warn(f"{len(lines) - len(texts)} blank lines of standard input were left out")
    if compare or len(folders) > 1:
        from peftkit.side_by_side import compare_on_texts, show_side_by_side

        compared = compare_on_texts(folders, texts, base=compare, ui=UI(quiet=True))
        if as_json:
            ui.json(compared)
        else:
            show_side_by_side(ui, compared)
        return
    from peftkit.judge import predict as predict_texts

    answers = predict_texts(folders[0], texts)
    if as_json:
        ui.json(answers)
    for one in answers if not as_json else ():
        ui.lines(one["answer"])


def _standard_input() -> list[str]:
    try:
        return [line.rstrip("\r\n") for line in sys.stdin]
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is not {error.encoding} text; save it in this encoding") from error


@answer_app.command()
def chat(
    adapter: Adapter,
    others: Annotated[
        list[Path] | None, typer.Option("--adapter", metavar="ADAPTER", help="Another one, to change to in the chat.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="What is said to the model at the start.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Longest answer, in tokens; 512, or the recipe's.")
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, max=2, help="How freely words are chosen; 0 takes the likeliest.")
    ] = 0,
    base: Annotated[bool, typer.Option("--base", help="Begin with the base model.")] = False,
) -> None:
    """Chat with adapters on the terminal."""
    from peftkit.chat import chat as chat_with
    from peftkit.side_by_side import adapter_names

    folders = [adapter, *(others or ())]
    chat_with(
        dict(zip(adapter_names(folders), folders, strict=True)),
        system=system,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        base=base,
    )


@answer_app.command()
def serve(
    adapters: Annotated[
        list[Path] | None, typer.Argument(metavar="ADAPTER", help="Folders of adapters, or of runs.")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", metavar="FILE", help="File with the key to ask for; else $PEFTKIT_API_KEY, if set."),
    ] = None,
    max_waiting: Annotated[int, typer.Option("--max-waiting", min=0, help="Requests that may wait for a place.")] = 64,
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, help="Answers that are generated at once.")] = 8,
    named: Annotated[
        list[str] | None, typer.Option("--name", metavar="NAME=FOLDER", help="An adapter under a name of your own.")
    ] = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print how vLLM, llama.cpp and SGLang serve the adapter, and serve nothing.")
    ] = False,
) -> None:
    """Serve adapters and their base model, as OpenAI's API does."""
    from peftkit.ui import UI

    if only_print:
        from peftkit.export.commands import show_commands

        if named or len(adapters or ()) != 1:
            raise ConfigError("--print is for one adapter; give its folder and no --name")
        show_commands(UI(), (adapters or [])[0], port=port)
        return
    from peftkit.serve.server import name_adapters, read_key
    from peftkit.serve.server import serve as serve_adapters

    serve_adapters(
        name_adapters(adapters or (), named or ()),
        host=host,
        port=port,
        key=read_key(key_file),
        max_waiting=max_waiting,
        max_batch=max_batch,
        ui=UI(),
    )
