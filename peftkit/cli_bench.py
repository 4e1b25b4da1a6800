"""The commands that measure training, show what was measured, and compare it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from peftkit.cli_options import Json

bench_app = typer.Typer(help="Measure training, alone or beside others.", no_args_is_help=True)

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="YAML files of experiments.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Folder of the result; runs/bench-NAME.")]
Rounds = Annotated[int | None, typer.Option("--rounds", min=1, help="Turns of each contestant.")]
Packages = Annotated[
    list[str] | None,
    typer.Option("--packages", metavar="NAME=FOLDER", help="A folder of packages for a contestant that needs its own."),
]


@bench_app.command("run")
def bench_run(
    files: Files,
    rounds: Rounds = None,
    limit: Annotated[
        str | None, typer.Option("--limit", metavar="SIZE", help="Memory of the GPU that may be used, such as 24GB.")
    ] = None,
    out: Out = None,
    packages: Packages = None,
    as_json: Json = False,
) -> None:
    """Measure experiments; what was measured already is kept."""
    from peftkit.bench.experiment import load_set
    from peftkit.bench.run import run_set
    from peftkit.errors import ConfigError
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    if out is not None and len(files) > 1:
        raise ConfigError("--out is for one file of experiments; without it each gets a folder of its own")
    own = {}
    for word in packages or ():
        name, sign, folder = word.partition("=")
        if not (sign and Path(folder).is_dir()):
            raise ConfigError(f"--packages {word}: write NAME=FOLDER, with a folder that is there")
        own[name] = Path(folder)
    found = []
    for asked in [load_set(file) for file in files]:
        folder, result = run_set(asked, ui=ui, command=_command(), rounds=rounds, limit=limit, out=out, packages=own)
        ui.say(f"written to {folder}")
        found.append(result.model_dump(mode="json"))
    if as_json:
        ui.json(found if len(found) > 1 else found[0])


def _command() -> str:
    return " ".join(["peftkit", *sys.argv[1:]])
