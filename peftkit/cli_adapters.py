"""The commands that change and compare adapters; `peftkit.cli` adds them to its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from peftkit.cli_options import Json
from peftkit.errors import ConfigError

adapters_app = typer.Typer()


@adapters_app.command()
def adopt(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of an adapter of another program.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the recipe, such as task.labels.")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="The base model, if not the one that it names.")
    ] = None,
    quantization: Annotated[
        str | None, typer.Option("--quantization", help="How the base was held in training: none, nf4, fp4 or int8.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", metavar="NAME", help="Ask it as this recipe does; by default as a chat.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Give an adapter of another program a passport.

    The adapter may come from PEFT, Unsloth, axolotl, MLX or another program. It must fit its base model.
    """
    from peftkit.share.adopt import adopt as adopt_adapter
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    report = adopt_adapter(
        adapter, out, base=base, quantization=quantization, recipe=recipe, words=tuple(words or ()), ui=ui
    )
    if as_json:
        ui.json(report)


@adapters_app.command()
def inspect(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of an adapter, or of a run.")],
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with charts of what it changes.")
    ] = None,
    readers: Annotated[
        list[str] | None,
        typer.Option("--for", metavar="PROGRAM", help="Does vllm, llama.cpp, mlx, sglang or ollama take it?"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Look into an adapter: what it is, and what is wrong with it.

    It also says what the adapter changes, and what it belongs to.
    """
    from peftkit.share.inspect import inspect_adapter
    from peftkit.share.inspect_screen import show_inspected
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    found = inspect_adapter(adapter, readers or ())
    if as_json:
        ui.json(found.as_json())
    else:
        show_inspected(ui, found)
    if html is not None:
        from peftkit.share.inspect_page import write_page

        write_page(found, html)
        ui.say(f"wrote {html}")


@adapters_app.command()
def combine(
    words: Annotated[
        list[str], typer.Argument(metavar="ADAPTER[:WEIGHT]... OUT", help="Adapters, and the folder to write.")
    ],
    method: Annotated[
        str, typer.Option("--method", help="linear, cat, svd, ties, dare or magnitude_prune.")
    ] = "linear",
    rank: Annotated[int | None, typer.Option("--rank", help="Rank of a cut; by default the largest there is.")] = None,
    density: Annotated[
        float | None, typer.Option("--density", help="Share of entries that ties, dare and magnitude_prune keep: 0.5.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of what dare drops.")] = 0,
    as_json: Json = False,
) -> None:
    """Combine LoRA adapters of one base model."""
    if len(words) < 2:
        raise ConfigError(
            "combine needs adapters and then the folder to write, such as: peftkit combine A:0.7 B:0.3 OUT"
        )
    from peftkit.merge.combine import combine as combine_adapters
    from peftkit.merge.given import Weighted
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    *adapters, out = words
    report = combine_adapters(
        [Weighted.parse(word) for word in adapters],
        Path(out),
        method=method,
        rank=rank,
        density=density,
        seed=seed,
        ui=ui,
    )
    if as_json:
        ui.json(report)


@adapters_app.command()
def extract(
    base: Annotated[str, typer.Argument(metavar="BASE", help="Base model: folder, embedded name, or hub id.")],
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="The model that was tuned from it.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    rank: Annotated[int, typer.Option("--rank", help="Largest rank of a module.")],
    modules: Annotated[
        str, typer.Option("--modules", metavar="NAME,...", help="Layers to look at; by default all linear ones.")
    ] = "",
    full: Annotated[bool, typer.Option("--full", help="Carry norms and embeddings that changed as a whole.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the approximation of large matrices.")] = 0,
    as_json: Json = False,
) -> None:
    """Make a LoRA adapter from the difference of two models."""
    from peftkit.merge.extract import extract as extract_adapter
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    words = [word.strip() for word in modules.split(",") if word.strip()]
    report = extract_adapter(base, tuned, out, rank=rank, modules=words, full=full, seed=seed, ui=ui)
    if as_json:
        ui.json(report)


@adapters_app.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of an adapter, or of a run.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    as_json: Json = False,
) -> None:
    """Compare two LoRA adapters by what each changes."""
    from peftkit.merge.difference import compare_adapters
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    report = compare_adapters(first, second, ui=ui)
    if as_json:
        ui.json(report)


@adapters_app.command()
def shrink(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of an adapter, or of a run.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bf16, fp16, fp8 or int8.")] = "float32",
    rank: Annotated[str | None, typer.Option("--rank", metavar="N|auto", help="Largest rank of a module.")] = None,
    kl: Annotated[
        float | None, typer.Option("--kl", help="Of --rank auto: how far its answers may be, in nats a token: 1e-4.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a LoRA adapter smaller: lower ranks, fewer bits, or both."""
    from peftkit.merge.shrink import shrink as shrink_adapter
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    report = shrink_adapter(adapter, out, dtype=dtype, rank=_rank(rank), kl=kl, ui=ui)
    if as_json:
        ui.json(report)


def _rank(word: str | None) -> int | str | None:
    try:
        return None if word is None else int(word)
    except ValueError:
        return word
