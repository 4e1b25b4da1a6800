"""What the figures of a result file depend on."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peftkit import machine

ROOT = Path(__file__).parents[1]


def about() -> dict[str, Any]:
    """Return the command, the commit, the git tree of the package, the day, the machine, and the versions."""
    return {
        "command": " ".join([f"python benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": git("describe", "--always", "--dirty", "--exclude", "*"),
        "package": package(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine.describe(),
        "versions": machine.versions(),
    }


def package() -> str:
    """Return the git tree of the package's folder, which stays the same where only other files change."""
    return git("rev-parse", "HEAD:peftkit")


def git(*words: str) -> str:
    """Return what git says; `unknown` outside of a repository."""
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)  # noqa: S607
    return done.stdout.strip() or "unknown"
