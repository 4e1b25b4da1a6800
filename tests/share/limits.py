"""Hostile files are opened in a process of their own, with little memory and under watch."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from peftkit import machine

MEMORY = 300 * 10**6
"""Bytes that the whole process may hold at its peak, Python and libraries among them."""
RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "hostile.json"
SCRIPT = Path(__file__).with_name("refuse.py")


def refused(what: str, cases: Iterable[tuple[str, Path]], folder: Path, first: Iterable[Path] = (), room: int = 10**9):
    """Open files, and give for each name how it ended.

    Args:
        what: A function of `refuse.py`.
        cases: Names and paths.
        folder: Where the job is; nothing may be written outside it.
        first: Files to open before, so that what is imported then is no part of the cases.
        room: Bytes of addresses, which are more than those of memory.
    """
    out = folder / "ended.json"
    job = folder / "job.json"
    job.write_text(
        json.dumps(
            {
                "what": what,
                "cases": [(name, str(path)) for name, path in cases],
                "first": [str(path) for path in first],
                "bytes": room,
                "out": str(out),
            }
        )
    )
    done = subprocess.run([sys.executable, SCRIPT, job], capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    ended = json.loads(out.read_text())
    if os.environ.get("PEFTKIT_RECORD") == "1":
        _record(what, ended)
    return ended


def _record(what, ended) -> None:
    """Write down how many were refused, in how much time at most, and with how much memory."""
    seen = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    refusals = [one for one in ended.values() if one["error"]]
    if len(refusals) < 10:
        return
    seen |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine.describe()}
    seen[what] = {
        "files": len(ended),
        "refused": len(refusals),
        "longest_seconds": float(f"{max(one['seconds'] for one in refusals):.3g}"),
        "peak_bytes": max(one["peak"] for one in ended.values()),
    }
    RESULT.write_text(json.dumps(seen, indent=2) + "\n", encoding="utf-8")
