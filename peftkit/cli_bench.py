"""The commands that measure training, show what was measured, and compare it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from peftkit.cli_options import Json

bench_app = typer.Typer(help="Measure training, alone or beside others.", no_args_is_help=True)

Files = Annotated[list[Path], typer.Argument(metavar="FILE", help="YAML files of experiments.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Folder of the result; runs/bench-NAME.")]
Results = Annotated[list[Path], typer.Argument(metavar="RESULT", help="Results' folders or files.")]
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
    from peftkit.bench.page import PAGE, write_page
    from peftkit.bench.run import run_set
    from peftkit.bench.tables import show_result
    from peftkit.errors import ConfigError
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    if out is not None and len(files) > 1:
        raise ConfigError("--out is for one file of experiments; without it each gets a folder of its own")
    own = {}
    for word in packages or ():
        name, sign, place = word.partition("=")
        if not (sign and Path(place).is_dir()):
            raise ConfigError(f"--packages {word}: write NAME=FOLDER, with a folder that is there")
        own[name] = Path(place)
    found = []
    for asked in [load_set(file) for file in files]:
        folder, result = run_set(asked, ui=ui, command=_command(), rounds=rounds, limit=limit, out=out, packages=own)
        write_page([result], folder / PAGE)
        show_result(ui, result)
        ui.say(f"written to {folder}; {folder / PAGE} has the charts")
        found.append(result.model_dump(mode="json"))
    if as_json:
        ui.json(found if len(found) > 1 else found[0])


@bench_app.command("show")
def bench_show(
    results: Results,
    page: Annotated[Path | None, typer.Option("--page", metavar="FILE.html", help="Write a page with charts.")] = None,
    as_json: Json = False,
) -> None:
    """Show results as tables, and with --page as a page with charts."""
    from peftkit.bench.page import write_page
    from peftkit.bench.result import read_result
    from peftkit.bench.tables import show_result
    from peftkit.rundir import require_new
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    found = [read_result(one) for one in results]
    for one in found:
        show_result(ui, one)
    if page is not None:
        require_new(page)
        write_page(found, page)
        ui.say(f"wrote {page}")
    if as_json:
        ui.json([one.model_dump(mode="json") for one in found])


@bench_app.command("compare")
def bench_compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A result's folder or file.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    as_json: Json = False,
) -> None:
    """Compare two results.

    Values are compared if both machines are alike; ratios within each result always are.
    """
    from peftkit.bench.compare import compared, show_compared
    from peftkit.bench.result import read_result
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    both = read_result(first), read_result(second)
    if as_json:
        ui.json(compared(*both))
    else:
        show_compared(ui, *both, (str(first), str(second)))


@bench_app.command("check")
def bench_check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML file of experiments.")],
    baseline: Annotated[
        Path | None, typer.Option("--baseline", metavar="FILE.json", help="By default beside the experiments.")
    ] = None,
    rounds: Rounds = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Keep the result; turns that stand there are used.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", min=0, max=1, help="Share by which a speed ratio may be worse.")
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Keep the ratios as the baseline of this kind of machine.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure, and fail if peftkit came out worse than its baseline.

    The baseline is that of this kind of machine: peftkit's ratios to the others, not its seconds.
    """
    import tempfile
    from dataclasses import asdict

    from peftkit.bench import check
    from peftkit.bench.experiment import load_set
    from peftkit.bench.run import run_set
    from peftkit.errors import RegressionError
    from peftkit.ui import UI

    ui = UI(as_json=as_json)
    asked, place = load_set(file), baseline or check.baseline_file(file)
    held = check.read_baselines(place)
    with tempfile.TemporaryDirectory(prefix="peftkit-bench-") as scratch:
        _, result = run_set(asked, ui=ui, command=_command(), rounds=rounds, out=out or Path(scratch))
    kind = str(result.machine["kind"])
    known = held.machines.get(kind)
    if known is None and not record:
        ui.warn(f"'{place}' has no baseline for '{kind}', so only failures and losses are judged; --record makes one")
    given = {} if tolerance is None else {"speed_tolerance": tolerance}
    found = list(check.findings(result, None if record else known, **given))
    ui.table(
        ("case", "what", ">measured", ">allowed", ""),
        [
            (one.case, one.what, f"{one.measured:.3g}", _number(one.allowed), "" if one.passed else "WORSE")
            for one in found
        ],
    )
    if as_json:
        ui.json({"kind": kind, "baseline": known is not None, "findings": [asdict(one) for one in found]})
    if worse := [one for one in found if not one.passed]:
        first = worse[0]
        raise RegressionError(
            f"{len(worse)} of {len(found)} findings are worse than allowed, the first in '{first.case}': {first.what} "
            f"{_number(first.allowed)}, measured {first.measured:.3g}; compare the commits with `peftkit bench compare`"
        )
    if record:
        check.record(result, place)
        ui.say(f"recorded the ratios of '{kind}' in {place}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _command() -> str:
    return " ".join(["peftkit", *sys.argv[1:]])
