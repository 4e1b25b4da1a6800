"""The command line: one short function per verb, which imports what it needs when it is called."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from peftkit import machine
from peftkit.cli_adapters import adapters_app
from peftkit.cli_answer import answer_app
from peftkit.cli_bench import bench_app
from peftkit.cli_export import export_app
from peftkit.cli_merge import merge_app
from peftkit.cli_options import Json
from peftkit.cli_pack import pack_app
from peftkit.cli_plan import plan_app
from peftkit.cli_share import share_app
from peftkit.errors import PeftkitError

app = typer.Typer(
    help="Fine-tune a language model on one consumer GPU, see what improved, and share a small adapter.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich help costs a third of the start-up
)
recipes_app = typer.Typer(help="List, show and copy recipes.", invoke_without_command=True)
assets_app = typer.Typer(help="List and fetch the embedded model and data.", invoke_without_command=True)
app.add_typer(recipes_app, name="recipes")
app.add_typer(assets_app, name="assets")
app.add_typer(answer_app)
app.add_typer(plan_app)
app.add_typer(bench_app, name="bench")
app.add_typer(merge_app)
app.add_typer(adapters_app)
app.add_typer(share_app)
app.add_typer(export_app)
app.add_typer(pack_app)

INTERRUPTED = 130  # what typer leaves with after Ctrl-C

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or path of a .py or .yaml file.")]
Words = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, such as train.learning_rate=2e-4.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML file with settings.")]
PresetName = Annotated[str | None, typer.Option("--preset", metavar="NAME", help="Values for one size of machine.")]
TimeLimit = Annotated[
    str | None, typer.Option("--time-limit", metavar="TIME", help="Save and stop in time, such as 3h or 1h30m.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")]


def main() -> None:
    """Run the command line; a user's mistake ends with one sentence and the exit code of its kind."""
    global _debug
    _debug = False
    machine.let_segments_grow()
    atexit.register(gc.freeze)  # or the interpreter looks for cycles in the large libraries once more as it ends
    try:
        app(standalone_mode=True)
    except PeftkitError as error:
        from peftkit.ui import UI

        if _debug:
            UI().traceback(error)
        else:
            UI().error(str(error))
        sys.exit(error.exit_code)
    except Exception as bug:
        from peftkit.ui import UI

        UI().traceback(bug)
        sys.exit(1)
    except SystemExit as left:
        if left.code == INTERRUPTED:
            sys.stderr.write("\ninterrupted\n")
        raise


_debug = False


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"peftkit {version('peftkit')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options that stand before a command."""
    global _debug
    _debug = debug


@contextmanager
def _left_when_stopped() -> Iterator[None]:
    """Leave with the code of what stopped a run: 128 and the signal's number, or 75 when its time was up."""
    from peftkit.stopping import Stopped

    try:
        yield
    except Stopped as stopped:
        raise typer.Exit(stopped.exit_code) from None


@app.command()
def run(
    recipe: RecipeName,
    words: Words = None,
    config: ConfigFile = None,
    preset: PresetName = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Folder of the run.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Start even if the forecast says that it does not fit.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in that folder, if there is one.")
    ] = False,
    time_limit: TimeLimit = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune an adapter, and see what got better."""
    from peftkit import pipeline
    from peftkit.stopping import seconds_of
    from peftkit.ui import UI

    ui = UI(quiet=quiet, as_json=as_json)
    with _left_when_stopped():
        result = pipeline.run(
            recipe,
            words=words or (),
            config=config,
            preset=preset,
            out=out,
            resume=resume,
            time_limit=seconds_of(time_limit),
            ui=ui,
            force=force,
        )
    if as_json:
        ui.json({"folder": str(result.folder), **result.summary})


@app.command("resume")
def go_on(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run that was stopped or killed.")],
    words: Words = None,
    time_limit: TimeLimit = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a run as if it had never stopped."""
    from peftkit import pipeline
    from peftkit.stopping import seconds_of
    from peftkit.ui import UI

    ui = UI(quiet=quiet, as_json=as_json)
    with _left_when_stopped():
        result = pipeline.resume(folder, words=words or (), time_limit=seconds_of(time_limit), ui=ui)
    if as_json:
        ui.json({"folder": str(result.folder), **result.summary})


@app.command()
def check(
    recipe: RecipeName,
    words: Words = None,
    config: ConfigFile = None,
    preset: PresetName = None,
    as_json: Json = False,
) -> None:
    """Check the data of a run, and see one row as the model sees it."""
    from peftkit import pipeline
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    report = pipeline.check(recipe, words=words or (), config=config, preset=preset, ui=ui)
    if as_json:
        ui.json(report)


@app.command("eval")
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    words: Words = None,
    split: Annotated[str, typer.Option("--split", help="test or validation.")] = "test",
    max_rows: Annotated[int | None, typer.Option("--max-rows", min=1, help="Judge at most this many rows.")] = None,
    as_json: Json = False,
) -> None:
    """Judge a run's adapter again, from what is on the disk.

    Keys of evaluate.* may be others than in the run.
    """
    from peftkit.judge import evaluate_run
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    result = evaluate_run(folder, words=words or (), split=split, max_rows=max_rows, ui=ui)
    if as_json:
        ui.json(result)


@recipes_app.callback()
def recipes(context: typer.Context, as_json: Json = False) -> None:
    """List the recipes that are installed."""
    if context.invoked_subcommand:
        return
    from peftkit.recipe import list_recipes
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    found = list_recipes()
    if as_json:
        listed: list[dict[str, Any]] = [
            {"name": name, "summary": one.summary, "presets": list(one.presets)} for name, one in found.recipes.items()
        ]
        ui.json({"recipes": listed, "broken": dict(found.broken)})
        return
    ui.table(
        ("recipe", "what it does", "presets"),
        [(name, one.summary, " ".join(one.presets)) for name, one in found.recipes.items()],
    )
    for reason in found.broken.values():
        ui.warn(f"left out: {reason}")


@recipes_app.command("show")
def recipes_show(name: Annotated[str, typer.Argument(metavar="NAME")], preset: PresetName = None) -> None:
    """Show a recipe: its columns and presets, and every key with help."""
    from peftkit.recipe import load_recipe
    from peftkit.resolve import resolve
    from peftkit.ui import UI
    from peftkit.yaml_file import to_yaml

    ui = UI()
    recipe = load_recipe(name)
    ui.say(f"{recipe.name}: {recipe.summary}", style="bold")
    ui.table(("column", "usual names"), [(column, ", ".join(names)) for column, names in recipe.columns.items()])
    ui.table(("preset", "meant for"), [(preset, one.summary) for preset, one in recipe.presets.items()])
    ui.say("")
    ui.lines(to_yaml(resolve(name, preset=preset).config, comments=True))


@recipes_app.command("copy")
def recipes_copy(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml")],
    preset: PresetName = None,
) -> None:
    """Write a recipe's settings to a file that you edit and run."""
    from peftkit.errors import ConfigError
    from peftkit.resolve import resolve
    from peftkit.rundir import require_new, write_text
    from peftkit.ui import UI
    from peftkit.yaml_file import to_yaml

    if file.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"'{file}' must end in .yaml, so that `peftkit run {file.with_suffix('.yaml')}` can take it")
    require_new(file)
    write_text(file, to_yaml(resolve(name, preset=preset).config, comments=True))
    UI().say(f"wrote {file}; edit it, then: peftkit run {file}")


@assets_app.callback()
def assets(context: typer.Context, as_json: Json = False) -> None:
    """List the embedded model and data."""
    if context.invoked_subcommand:
        return
    from peftkit.model.assets import assets_table
    from peftkit.ui import UI, size

    ui = UI(as_json=as_json)
    table = assets_table()
    if as_json:
        ui.json(table)
        return
    ui.table(
        ("asset", "from", ">size", "licence", "what for", "here"),
        [
            (
                row["name"],
                f"{row['package']} {row['version']}",
                size(row["size"]),
                row["licence"],
                row["what_for"],
                "yes" if row["cached"] else "no",
            )
            for row in table
        ],
    )


@assets_app.command("fetch")
def assets_fetch() -> None:
    """Fetch all assets now, so that later runs need no network."""
    from peftkit.model.assets import ASSETS, fetch
    from peftkit.model.convert import EMBEDDED
    from peftkit.ui import UI

    ui = UI()
    for asset in ASSETS.values():
        ui.say(f"{asset.name}: {fetch(asset, ui.note)}")
    for make in EMBEDDED.values():
        ui.say(f"model folder: {make(ui.note)}")


@app.command()
def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure nothing, which saves a few seconds; say what was measured before.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what this machine can do, how fast, and what is missing.

    What is missing is named with how to install it. The rates that are measured here are kept for forecasts.
    """
    from peftkit.doctor import diagnose
    from peftkit.doctor_screen import show
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    found = diagnose(measure=not quick)
    if as_json:
        ui.json(found)
    else:
        show(ui, found)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A method to say more about.")] = None,
    as_json: Json = False,
) -> None:
    """List the adapter methods: where each works, and what it costs.

    It also says when to choose each; with a NAME, everything that is known of that one.
    """
    from peftkit.adapter import method_list
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    if as_json:
        ui.json(method_list.describe_method(name) if name else method_list.list_methods())
    elif name:
        method_list.show_method(ui, name)
    else:
        method_list.show_methods(ui)
