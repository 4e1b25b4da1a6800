"""What the pages' blocks share: results are read, and where they come from is said, in one way."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes")


def read(name: str) -> dict[str, Any]:
    """Read a result that has a form of its own; the others are read with `peftkit.bench.result`."""
    found: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return found


def where(result: dict[str, Any]) -> str:
    """Say on what machine, with what versions and command, and when a result was measured."""
    versions = result["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in LIBRARIES)
    return f"{machine(result['machine'])}; {named}; `{result['command']}`, {result['date'][:10]}."


def machine(found: dict[str, Any]) -> str:
    """Name a machine."""
    return f"{found['cpu']}, {found['cores']} core{'s' if found['cores'] > 1 else ''}, no GPU"


def percent(value: float) -> str:
    """Write a share."""
    return f"{100 * value:.1f}%"
