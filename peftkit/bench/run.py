"""Runs a set of experiments: a process for each turn, contestants in an order that changes by the round."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peftkit.bench.experiment import Contestant, ExperimentSet
from peftkit.bench.prepare import MADE
from peftkit.bench.result import Result, Run, summed_up, write_result
from peftkit.errors import ConfigError, OutputError, PeftkitError
from peftkit.rundir import RUNS, append_lines, read_json, write_json
from peftkit.ui import UI, size

TURNS = "runs.jsonl"
"""Every turn as it ended, one to a line; what stands there is not measured again."""
STATE = "set.json"
LOGS = "logs"
COMPARED = ("tokens_per_second", "step_p50", "peak_allocated", "peak_reserved")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(gib|gb|g|mib|mb|m)?", re.IGNORECASE)
_UNITS = {"": 1 << 30, "g": 1 << 30, "gb": 1 << 30, "gib": 1 << 30, "m": 1 << 20, "mb": 1 << 20, "mib": 1 << 20}


def run_set(
    asked: ExperimentSet,
    *,
    ui: UI,
    command: str,
    rounds: int | None = None,
    limit: str | None = None,
    out: Path | None = None,
    packages: Mapping[str, Path] | None = None,
) -> tuple[Path, Result]:
    """Run a set, or what is left of it, and write its result.

    Args:
        asked: The set.
        ui: Told of each turn.
        command: What was typed, for the result.
        rounds: Turns of each contestant; by default the set's.
        limit: Memory of a GPU that may be used, such as 24GB.
        out: Folder of the result; by default one in `runs`.
        packages: A folder of packages for contestants that need their own.

    Returns:
        The folder, and the result.

    Raises:
        ConfigError: The limit is no size, or packages are for nobody.
        OutputError: The folder holds another set's result, or that of another machine or other versions.
    """
    most = limit_bytes(limit)
    for name in packages or {}:
        if name not in asked.contestants:
            raise ConfigError(
                f"--packages {name}: there is no such contestant; there are {', '.join(asked.contestants)}"
            )
    folder = out or RUNS / f"bench-{asked.name}"
    (folder / LOGS).mkdir(parents=True, exist_ok=True)
    _require_same(folder, _state(asked, most))
    with tempfile.TemporaryDirectory(prefix="peftkit-bench-") as scratch:
        ui.stage(f"{asked.name}: data, jobs and forecasts")
        made = _prepare(asked, Path(scratch), most)
        _require_same(folder, _state_of_machine(made["surroundings"]))
        if most is not None and made["surroundings"]["machine"]["gpu"] is None:
            ui.warn("--limit has no effect on a processor: only a GPU's memory can be capped")
        done = {(one.case, one.contestant, one.round): one for one in _turns(folder)}
        for case, name, number in schedule(asked, rounds or asked.rounds):
            if (case, name, number) in done:
                ui.note(f"round {number}  {case}  {name}: measured already")
                continue
            own = (packages or {}).get(name)
            run = _turn(asked, made, case, name, number, folder, Path(scratch), own)
            append_lines(folder / TURNS, [run.model_dump(mode="json")])
            ui.say(said(run), style="" if run.status == "ok" else "yellow")
    result = _result(asked, made, list(_turns(folder)), command, most)
    write_result(result, folder)
    return folder, result


def schedule(asked: ExperimentSet, rounds: int) -> Iterator[tuple[str, str, int]]:
    """Give every turn: round by round, experiment by experiment, and who began one round ends the next.

    What compares losses has one round: they come out the same each time.
    """
    names = list(asked.contestants)
    for number in range(1, rounds + 1):
        for one in asked.experiments:
            if one.judges is not None and number > 1:
                continue
            for name in names if number % 2 else reversed(names):
                yield one.name, name, number


def limit_bytes(text: str | None) -> int | None:
    """Read a size of memory: 24GB, 24GiB and 24 are the same, as cards are sold.

    Raises:
        ConfigError: It is none.
    """
    if text is None:
        return None
    found = _SIZE.fullmatch(text.strip())
    if found is None or float(found[1]) <= 0:
        raise ConfigError(f"--limit {text}: a size is expected, such as 24GB")
    return int(float(found[1]) * _UNITS[(found[2] or "").lower()])


def said(run: Run) -> str:
    """Say a turn in a line."""
    head = f"round {run.round}  {run.case}  {run.contestant}: "
    if run.status != "ok":
        return f"{head}{run.status}, {run.reason}"
    speed, step = run.measures["tokens_per_second"] or 0, run.measures["step_p50"] or 0
    memory, loss = run.measures["peak_allocated"] or 0, run.measures.get("held_out_loss")
    judged = f", held-out loss {loss:.4f}" if loss is not None else ""
    return f"{head}{speed:,.1f} tokens/s, a step {step:.2f} s, {size(memory)}{judged}"


def _prepare(asked: ExperimentSet, scratch: Path, limit: int | None) -> dict[str, Any]:
    """Let another process make the jobs."""
    given = scratch / "set.json"
    given.write_text(asked.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "peftkit.bench.prepare", str(given), str(scratch), str(limit or 0)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment(None))  # noqa: S603
    made = scratch / MADE
    if not made.is_file():
        raise PeftkitError(f"the jobs of '{asked.name}' could not be made: {_last_line(done.stderr)}")
    found: dict[str, Any] = read_json(made)
    if "error" in found:
        raise _of_code(found["exit_code"])(found["error"])
    return found


def _of_code(code: int) -> type[PeftkitError]:
    kinds: list[type[PeftkitError]] = [PeftkitError, *PeftkitError.__subclasses__()]
    return next((one for one in kinds if one.exit_code == code), PeftkitError)


def _require_same(folder: Path, state: Mapping[str, Any]) -> None:
    """Keep a folder to one set on one machine, so that what stands in it can be compared."""
    file = folder / STATE
    held = read_json(file) if file.exists() else {}
    words = {"set": "another set of experiments", "machine": "another machine", "versions": "other versions"}
    for key, value in state.items():
        if key in held and held[key] != value:
            raise OutputError(
                f"'{folder}' holds the runs of {words.get(key, 'another limit')}, which are never mixed; "
                "give another folder with --out"
            )
    write_json(file, {**held, **state})


def _state(asked: ExperimentSet, limit: int | None) -> dict[str, Any]:
    digest = hashlib.sha256(asked.model_dump_json(exclude={"rounds", "folder"}).encode()).hexdigest()
    return {"set": digest, "limit": limit}


def _state_of_machine(surroundings: Mapping[str, Any]) -> dict[str, Any]:
    machine = {name: surroundings["machine"][name] for name in ("cpu", "cores", "gpu")}
    return {"machine": machine, "versions": surroundings["versions"]}


def _turns(folder: Path) -> Iterator[Run]:
    """Give the turns that are kept; a crash can have torn the last line."""
    file = folder / TURNS
    if not file.exists():
        return
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue
        yield Run.model_validate(content)


def _turn(
    asked: ExperimentSet,
    made: Mapping[str, Any],
    case: str,
    name: str,
    number: int,
    folder: Path,
    scratch: Path,
    packages: Path | None,
) -> Run:
    """Let a contestant train in a process of its own."""
    experiment = next(one for one in asked.experiments if one.name == case)
    contestant, prepared = asked.contestants[name], made["experiments"][case]
    outcome = scratch / "outcome.json"
    outcome.unlink(missing_ok=True)
    command = list(_command(contestant, asked.folder, prepared["job"], outcome))
    log = folder / LOGS / f"{_plain(case)}-{_plain(name)}-{number}.txt"
    begun = time.perf_counter()
    with log.open("w", encoding="utf-8") as lines:
        process = subprocess.Popen(  # noqa: S603
            command, stdout=lines, stderr=subprocess.STDOUT, env=_environment(packages), start_new_session=True
        )
        try:
            code: int | None = process.wait(timeout=60 * experiment.minutes)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    found = _outcome(outcome, code, experiment.minutes, log)
    measures = {**found.get("measures", {}), "process_seconds": time.perf_counter() - begun}
    rate = made["surroundings"]["peak_rate"]["flops"]
    if found["status"] == "ok":
        log.unlink()
        measures["mfu"] = measures["model_flops_per_second"] / rate
        measures["hfu"] = measures["hardware_flops_per_second"] / rate
    detail = found.get("detail", {})
    if (forecast := prepared["forecasts"].get(name)) is not None:
        detail = {**detail, "forecast": forecast}
        on_gpu = made["surroundings"]["machine"]["gpu"] is not None
        measures["forecast_memory"] = forecast.get("allocated" if on_gpu else "memory")
        measures["forecast_step"] = forecast.get("seconds_per_step")
    return Run(
        case=case,
        contestant=name,
        round=number,
        status=found["status"],
        reason=found["reason"],
        measures=measures,
        detail=detail,
    )


def _command(contestant: Contestant, folder: Path, job: str, outcome: Path) -> Iterator[str]:
    yield sys.executable
    if contestant.script is None:
        yield from ("-m", "peftkit.bench.own", job, str(outcome), json.dumps(contestant.train))
    else:
        yield from (str(folder / contestant.script), job, str(outcome), *contestant.arguments)


def _outcome(file: Path, code: int | None, minutes: int, log: Path) -> dict[str, Any]:
    """Return what a process wrote, or why it wrote nothing."""
    if code is None:
        return {"status": "out of time", "reason": f"it was stopped after {minutes} minutes"}
    if file.is_file():
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found
    if code == -signal.SIGKILL:
        return {"status": "out of memory", "reason": "the system killed it, as it does where main memory runs out"}
    return {"status": "failed", "reason": f"it ended with code {code}: {_last_line(log.read_text(errors='replace'))}"}


def _end(process: subprocess.Popen[Any]) -> None:
    """End a process that is still there, with all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _environment(packages: Path | None) -> dict[str, str]:
    """Return the environment of a contestant: peftkit can be imported, and its own packages come before all others."""
    root = str(Path(__file__).parents[2])
    before = [str(packages.resolve())] if packages else []
    paths = [*before, *filter(None, [os.environ.get("PYTHONPATH")]), root]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false"}


def _result(
    asked: ExperimentSet, made: Mapping[str, Any], runs: Sequence[Run], command: str, limit: int | None
) -> Result:
    surroundings = made["surroundings"]
    cases = {
        one.name: {
            **made["experiments"][one.name]["settings"],
            "shapes": one.shapes,
            "layers": one.layers,
            "judges": one.judges,
            "rows": made["experiments"][one.name]["rows"],
        }
        for one in asked.experiments
    }
    result = Result(
        kind="training",
        name=asked.name,
        summary=asked.summary,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        limit=limit,
        settings={"contestants": list(asked.contestants), "cases": cases},
        rounds=max((one.round for one in runs), default=1),
        runs=list(runs),
        **surroundings,
    )
    return summed_up(result, COMPARED, asked.reference)


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def _plain(name: str) -> str:
    return re.sub(r"[^\w.=-]+", "-", name)
