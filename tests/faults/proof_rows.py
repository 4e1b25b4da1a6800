"""Every file and row that people get wrong has its declared outcome; rows of chance are all counted."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..small import write_model
from .bad_rows import CASES, prove
from .fuzzed_rows import ROWS, read_file
from .rows import Case

_FOLDER = tempfile.TemporaryDirectory(prefix="peftkit-rows-")


def cases(full: bool) -> Iterator[Case]:
    """Give the corpus and 400 files of 500 rows, or a few of each."""
    model = Path(_FOLDER.name) / "model"
    if not model.exists():
        write_model(model)
    for name in CASES if full else [*CASES][::25]:
        yield Case(name, partial(prove, CASES[name], model))
    for seed in range(400 if full else 2):
        yield Case(f"file {seed} of chance", partial(read_file, seed, model=model, rows=ROWS if full else 100))
