"""Prove that a run survives faults: kills, damage, full disks, signals, bad numbers, hostile input, planted bugs.

python benchmarks/faults.py                        # every row in its full form: hours on two cores
python benchmarks/faults.py kills signals          # some of them
python benchmarks/faults.py kills --minutes 20     # stops after a while; the same command goes on from there
python benchmarks/faults.py --short --out FILE     # what the tests run too

A row is a list of cases (tests/faults/rows.py names them). What each found is added to results/faults.json as it ends,
so that a recorder that is killed goes on with the case after it. `--anew` starts a row over, and so does another commit
of the package.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # set before torch is imported; the models are tiny

from about import about, package  # noqa: E402

from peftkit.rundir import write_json  # noqa: E402

if TYPE_CHECKING:
    from tests.faults.rows import Row

RESULT = Path(__file__).parent / "results" / "faults.json"
MOST_SAID = 20  # failures of a row that are written down in words
REST = 20.0  # seconds between two writes of the file


def main() -> None:
    """Run the rows, each in a process of its own where they are many."""
    from tests.faults.rows import ROWS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--short", action="store_true", help="the form that the tests run")
    parser.add_argument("--anew", action="store_true", help="forget what was done of these rows")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop each row after so long; 0 for never")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    unknown = set(options.names) - set(ROWS)
    if unknown:
        parser.error(f"there is no row {min(unknown)}; there are {', '.join(ROWS)}")
    if len(options.names) == 1:
        row = ROWS[options.names[0]]
        seen = record(options.names[0], row, options)
        print(
            f"{options.names[0]}: {seen['passed']} of {seen['tried']} passed, {seen['done']} of {seen['cases']} cases"
        )
        sys.exit(bool(seen["failures"]))
    flags = [word for word in sys.argv[1:] if word not in options.names]
    commands = [[sys.executable, __file__, name, *flags] for name in options.names or ROWS]
    sys.exit(max(subprocess.run(command, check=False).returncode for command in commands))


def record(name: str, row: "Row", options: argparse.Namespace) -> dict[str, Any]:
    """Run the cases of a row that are not done yet; return what is known of the row then."""
    form = "short" if options.short else "full"
    cases = list(row.cases(not options.short))
    seen = None if options.anew else _known(options.out, name, form)
    seen = seen or {"tried": 0, "passed": 0, "failures": [], "counts": {}, "done": 0, "seconds": 0.0}
    surroundings = about()
    began = written = time.monotonic()
    for case in cases[seen["done"] :]:
        wrong, counts = None, {}
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            try:
                counts = dict(case.prove(Path(folder)) or {})
            except Exception:  # whatever goes wrong in a case is its result
                wrong = traceback.format_exc(limit=-3)
        tried = counts.pop("tried", 1)
        seen["tried"] += tried
        seen["passed"] += 0 if wrong else tried
        seen["done"] += 1
        for what, count in counts.items():
            seen["counts"][what] = seen["counts"].get(what, 0) + count
        if wrong and len(seen["failures"]) < MOST_SAID:
            seen["failures"].append(f"{case.name}: {wrong}")
            print(f"{name}, {case.name}: {wrong}", file=sys.stderr)
        now = time.monotonic()
        late = options.minutes and now - began > 60 * options.minutes
        if now - written > REST or late or seen["done"] == len(cases):
            seen["seconds"] = round(seen["seconds"] + now - written, 1)
            written = now
            _write(options.out, name, {"what": row.what, "form": form, **seen, "cases": len(cases), **surroundings})
        if late:
            break
    return {**seen, "cases": len(cases)}


def _known(out: Path, name: str, form: str) -> dict[str, Any] | None:
    """Return what the file holds of a row, if that is of this form and this package."""
    held = json.loads(out.read_text()).get(name) if out.exists() else None
    if held is None or held["form"] != form or held["package"] != package():
        return None
    return {key: held[key] for key in ("tried", "passed", "failures", "counts", "done", "seconds")}


def _write(out: Path, name: str, seen: dict[str, Any]) -> None:
    """Put a row into the file; rows of other processes that were written meanwhile stay."""
    held = json.loads(out.read_text()) if out.exists() else {}
    write_json(out, dict(sorted({**held, name: seen}.items())))


if __name__ == "__main__":
    main()
