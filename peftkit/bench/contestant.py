"""The frame of a contestant's process: reads the job, caps memory, and writes down what was measured or why not.

A contestant is a script that ends with `compete(train)`. Its own libraries are imported inside `train`, so that one
that is missing is a row of the result too.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peftkit.bench.job import Job
from peftkit.errors import first_line

Train = Callable[[Job, Path], dict[str, Any]]
"""Trains a job, with a folder for what the trainer writes, and returns what the stopwatch says."""


def compete(train: Train, words: list[str] | None = None) -> None:
    """Train the job that the command line names, and write the outcome to the file that it names.

    Args:
        train: Does it.
        words: Path of the job, and of the file for the outcome; by default those of the command line.
    """
    job_file, outcome = map(Path, words if words is not None else sys.argv[1:3])
    try:
        job = Job.read(job_file)
        _cap(job.limit)
        found = {"status": "ok", "reason": None, **train(job, outcome.parent / "trainer")}
    except ImportError as error:
        found = _failed("missing", error)
    except Exception as error:  # whatever it is, it is this contestant's row
        from peftkit.memory.exhausted import is_out_of_memory

        found = _failed("out of memory" if is_out_of_memory(error) else "failed", error)
    outcome.write_text(json.dumps(found), encoding="utf-8")


def _cap(limit: int | None) -> None:
    """Let torch have no more than so many bytes of a GPU, so that a large card answers for a small one."""
    import torch

    if limit is None or not torch.cuda.is_available():
        return
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / whole))


def _failed(status: str, error: Exception) -> dict[str, Any]:
    traceback.print_exception(error)
    return {"status": status, "reason": f"{type(error).__name__}: {first_line(error)}", "measures": {}, "detail": {}}
