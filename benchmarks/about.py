"""What the figures of a result file depend on."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peftkit import machine
from peftkit.bench.surroundings import commit

ROOT = Path(__file__).parents[1]


def about() -> dict[str, Any]:
    """Return the command, the commit, the git tree of the package, the day, the machine, and the versions."""
    return {
        "command": " ".join([f"python benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": commit() or "unknown",
        "package": package(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine.describe(),
        "versions": machine.versions(),
    }


def package() -> str:
    """Return the git tree of the package's folder, which stays the same where only other files change."""
    asked = ["git", "-C", str(ROOT), "rev-parse", "HEAD:peftkit"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
