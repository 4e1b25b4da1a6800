"""Where a result was measured: machine, versions, commit, clocks, and how fast it multiplies matrices."""

from __future__ import annotations

import csv
import io
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from peftkit import machine

_ASKED = ("name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "power.limit")


def surroundings() -> dict[str, Any]:
    """Return what a result says of the place where it was measured; call it in a process of its own on a GPU."""
    described = machine.describe()
    return {
        "machine": {**described, "kind": kind_of(described)},
        "versions": machine.versions(),
        "commit": commit(),
        "gpu_state": gpu_state(),
        "peak_rate": peak_rate(described),
    }


def kind_of(described: dict[str, Any]) -> str:
    """Return what machines have in common whose ratios can be compared: the GPU, or cores and the fast dtype."""
    if described["gpu"]:
        return str(described["gpu"])
    return f"{described['cores']} cores, {machine.fast_dtype()}"


def peak_rate(described: dict[str, Any]) -> dict[str, Any]:
    """Return operations a second of dense products in the fast dtype, and where the number is from."""
    from peftkit.errors import ConfigError
    from peftkit.plan.cards import find_card
    from peftkit.plan.probe import measure
    from peftkit.plan.rates import kept_rates

    if described["gpu"]:
        with suppress(ConfigError):
            card = find_card(described["gpu"])
            return {"flops": card.tflops * 1e12, "source": f"data sheet of {card.name}"}
    kept = kept_rates()
    rates = kept or measure(shapes=1)
    flops = rates.single if machine.fast_dtype() == "float32" else rates.half
    return {"flops": flops, "source": "measured by peftkit doctor" if kept else "measured before the runs"}


def commit() -> str | None:
    """Return the commit of the checkout that peftkit runs from, with a mark if files were changed; None outside one."""
    root = Path(__file__).parents[2]
    found = _said(["git", "-C", str(root), "rev-parse", "HEAD"])
    if found is None or not (root / "pyproject.toml").is_file():
        return None
    changed = _said(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"])
    return f"{found}, with changes" if changed else found


def gpu_state() -> dict[str, str] | None:
    """Return clocks and power as the driver's tool says them; None where it cannot be asked."""
    line = _said(["nvidia-smi", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader"])
    rows = list(csv.reader(io.StringIO(line or ""), skipinitialspace=True))
    return dict(zip(_ASKED, rows[0], strict=False)) if rows else None


def _said(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
