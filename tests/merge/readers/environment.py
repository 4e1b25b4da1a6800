"""Virtual environments of other programs, made anew, and what a script in them computes."""

import json
import os
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
INSTALL_SECONDS = 3000
READ_SECONDS = 900


class CannotBuild(Exception):
    """An environment cannot be had here, for the reason that pip gives."""


def make_environment(folder: Path, packages: Sequence[str], without: Sequence[str] = ()) -> Path:
    """Install packages into a new environment, take some out again, and return its interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    _pip(python, "install", *packages)
    if without:
        _pip(python, "uninstall", "--yes", *without)
    return python


def _pip(python: Path, *words: str) -> None:
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise CannotBuild(f"pip needs more than {INSTALL_SECONDS} s") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise CannotBuild("; ".join(errors[:2]) or done.stderr[-300:])


def versions(python: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the versions of installed packages."""
    script = "import json, sys, importlib.metadata as m; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    done = subprocess.run([python, "-I", "-c", script, *names], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def read(python: Path, script: str, scratch: Path, model: Path, ids: list[list[int]], **settings) -> np.ndarray:
    """Run a script of this folder on a model and token ids, and return the array that it writes, in float64."""
    job, out = scratch / "job.json", scratch / "out.npy"
    job.write_text(json.dumps({"model": str(model), "ids": ids, "out": str(out), "settings": settings}))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [python, "-I", HERE / script, job]
    done = subprocess.run(command, capture_output=True, text=True, timeout=READ_SECONDS, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(out).astype(np.float64)
