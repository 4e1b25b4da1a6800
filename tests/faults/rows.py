"""What is proved about faults, as rows of cases.

`python benchmarks/faults.py` runs all of them and writes down what it saw; `test_rows.py` runs a short form of each.

A row is a module here or beside other tests with a function `cases(full: bool)` that gives its `Case`s: always the same
ones in the same order, since a recorder that was stopped goes on after those that it has done.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """One thing that is tried.

    Attributes:
        name: What is tried, in a few words.
        prove: Tries it in an empty folder, and raises AssertionError (or anything else) where it does not hold. It may
            return counts that the row adds up; the count `tried` says how many trials this case stood for (usually 1).
    """

    name: str
    prove: Callable[[Path], Mapping[str, int] | None]


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        what: What is proved, as one line.
        module: Where its cases are, relative to this package.
    """

    what: str
    module: str

    def cases(self, full: bool) -> Iterable[Case]:
        """Give the cases of the full form, or of a short one that takes seconds."""
        found: Iterable[Case] = importlib.import_module(self.module, __package__).cases(full)
        return found


ROWS = {
    "resume": Row("a training that is taken up goes on bit for bit as if it had never stopped", ".proof_resume"),
    "points": Row(
        "killed at named points of its life, a run goes on and ends the same, byte for byte", ".proof_points"
    ),
    "kills": Row("killed at random instants, a run goes on and ends the same, byte for byte", ".proof_kills"),
    "damage": Row("a damaged file is found, the older checkpoint is used, and nothing is deleted", ".proof_damage"),
    "disk": Row(
        "a disk that fills up or refuses leaves the older checkpoints, and the training goes on", ".proof_disk"
    ),
    "signals": Row("a signal saves and leaves with 128 + n; the run goes on to the same bytes", ".proof_signals"),
    "nan": Row("a step that is not finite is not taken: the weights stay as they are", "..train.proof_finite"),
    "rows": Row(
        "each file and row that people get wrong has one outcome, and rows of chance are all counted", ".proof_rows"
    ),
    "configuration": Row("a hostile or random configuration loads or is refused with a reason", ".proof_configuration"),
    "determinism": Row(
        "runs in other places and at other times leave the same adapter, byte for byte", ".proof_determinism"
    ),
    "planted": Row("a bug that is planted into the package is seen by a test", ".proof_planted"),
    "flakes": Row("the tests of faults pass each time", ".proof_flakes"),
}
