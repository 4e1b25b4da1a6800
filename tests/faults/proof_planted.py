"""Each planted bug is seen: a test that passes without it fails with it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .planted import BUGS, ROOT
from .rows import Case

SEEN, PASSED = 1, 0  # how pytest ends


def cases(full: bool) -> Iterator[Case]:
    """Give each bug; in the short form one, since each takes a Python of its own."""
    for name in list(BUGS) if full else list(BUGS)[:1]:
        yield Case(name, partial(a_bug, name))


def a_bug(name: str, folder: Path) -> None:
    """Run a test on a copy of the package as it is, then with the bug."""
    bug = BUGS[name]
    for part in ("peftkit", "tests", "recipes", "benchmarks"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "results"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    assert outcome(folder, bug.test) == PASSED
    (folder / "peftkit" / bug.file).write_text(bug.applied(), encoding="utf-8")
    assert outcome(folder, bug.test) == SEEN


def outcome(folder: Path, test: str) -> int:
    """Return how pytest ends with a test on the package in a folder."""
    surroundings = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    words = [sys.executable, "-m", "pytest", "-q", "-n0", "-x", "-p", "no:cacheprovider", test]
    done = subprocess.run(words, cwd=folder, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode in (SEEN, PASSED), done.stdout[-2000:]
    return done.returncode
