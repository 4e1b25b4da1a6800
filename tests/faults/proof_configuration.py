"""Hostile configuration files, and configurations of chance, load or are refused in little time and memory."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .hostile_yaml import PAYLOADS
from .rows import Case

FUZZ = Path(__file__).with_name("fuzzed_settings.py")
AT_ONCE = 2000


def cases(full: bool) -> Iterator[Case]:
    """Give the hostile files, and 200,000 configurations of chance, or a few."""
    yield Case("hostile files", prove_payloads)
    for first in range(0, 200_000 if full else 1, AT_ONCE):
        yield Case(f"configurations from {first}", partial(prove_chance, first, first + (AT_ONCE if full else 400)))


def prove_payloads(folder: Path) -> dict[str, int]:
    """Each takes less than a second of the processor and 100 MB, in a process that has read a good file before."""
    found = in_a_process("payloads", folder)
    slow = {name for name, one in found.items() if one["seconds"] > 1 or one["bytes"] > 100_000_000}
    crashed = {name for name, one in found.items() if one["ended"] not in ("loads", "ConfigError")}
    assert (slow, crashed) == (set(), set())
    assert len(found) == len(PAYLOADS)
    return {"tried": len(PAYLOADS), "files": len(PAYLOADS)}


def prove_chance(first: int, last: int, folder: Path) -> dict[str, int]:
    """Each loads, and is then written and read as the same, or is refused with a sentence.

    A seed that fails is looked at alone with `python tests/faults/fuzzed_settings.py SEED SEED+1 FOLDER`.
    """
    found = in_a_process(first, last, folder)
    assert found["bad"] == {}
    assert found["ended"]["loads"] > (last - first) // 10
    assert found["longest_seconds"] < 1
    assert found["peak_bytes"] < 100_000_000
    return {"tried": last - first, **found["ended"]}


def in_a_process(*words: object):
    done = subprocess.run([sys.executable, str(FUZZ), *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
