"""The tests of faults, again and again: no test fails now and then."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .planted import ROOT
from .rows import Case

TIMES = 20


def cases(full: bool) -> Iterator[Case]:
    """Give the suite twenty times; in the short form a file of it, once."""
    for number in range(TIMES if full else 1):
        yield Case(f"time {number + 1}", partial(the_suite, "tests/faults" if full else "tests/faults/test_planted.py"))


def the_suite(what: str, folder: Path) -> dict[str, int]:
    """Run it, and count what passed."""
    words = [sys.executable, "-m", "pytest", "-q", "-n2", f"--basetemp={folder / 'tests'}", what]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    last = next(line for line in reversed(done.stdout.splitlines()) if " passed" in line)
    return {"tests passed": int(last.split(" passed")[0].split()[-1])}
