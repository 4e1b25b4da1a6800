"""Programs, each in an environment of its own, and the rows that say how near to transformers they compute."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from peftkit import machine
from peftkit.errors import PeftkitError
from peftkit.model.convert import embedded_model

from .environment import CannotBuild, make_environment, read, versions

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
KL = "mean KL of the next token"
LOGITS = "largest difference of a logit"
LOGPROBS = "largest difference of a token's log-probability"


def embedded_base():
    """Folder of the embedded model; the test is skipped where that is not here and cannot be fetched."""
    try:
        return embedded_model()
    except PeftkitError as error:
        pytest.skip(str(error))


def kept_rows(name):
    """A fixture for the rows of one file of tests; with the switch, what was seen is written to that file."""

    @pytest.fixture(scope="module")
    def rows():
        seen = []
        yield seen
        write_rows(name, seen)

    return rows


class Reader:
    """A program, what it computes, and the rows that say how near that is."""

    def __init__(self, rows, scratch, folder, packages, without):
        self.rows, self.scratch = rows, scratch
        names = [package.partition("==")[0].partition("[")[0] for package in packages]
        self.program = names[0]
        try:
            self.python = make_environment(folder, packages, without)
        except CannotBuild as error:
            self.rows.append({"program": self.program, "versions": {}, "passed": None, "note": str(error)})
            pytest.skip(f"{self.program} cannot be installed here: {error}")
        self.versions = versions(self.python, names)

    def read(self, script, model, ids, **settings):
        return read(self.python, script, self.scratch, model, ids, **settings)

    def near(self, measure, figure, limit, note=""):
        """Whether a figure is below its limit; a row says so."""
        self.rows.append(row(self.program, self.versions, measure, figure, limit, note))
        return figure < limit


def row(program, versions, measure, figure, limit, note=""):
    result = {"measure": measure, "figure": float(f"{figure:.3g}"), "limit": limit, "passed": bool(figure < limit)}
    return {"program": program, "versions": versions, **result, "note": note}


def write_rows(name, rows):
    """Write what was seen to a file of results, if the switch is set; rows of tests that did not run are kept."""
    if os.environ.get("PEFTKIT_RECORD") == "1":
        file = RESULTS / name
        earlier = json.loads(file.read_text(encoding="utf-8"))["programs"] if file.is_file() else []
        seen = {_key(one) for one in rows}
        kept = [one for one in earlier if _key(one) not in seen]
        record = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine.describe(),
            "versions": machine.versions(),
            "model": "smollm2-135m-instruct",
            "programs": sorted([*kept, *rows], key=lambda one: one["program"]),
        }
        file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _key(one):
    """Program and what it read: what follows a semicolon are figures."""
    return one["program"], one.get("measure"), one["note"].partition(";")[0]


def farthest(found, expected):
    return float(np.abs(found - expected).max())
