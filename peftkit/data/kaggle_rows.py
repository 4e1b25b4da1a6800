"""The rows of a dataset on Kaggle, through kagglehub (`pip install 'peftkit[kaggle]'`).

    kaggle:owner/name/train.csv
    kaggle:owner/name/versions/3/train.csv
    kaggle:owner/name

A file is fetched once for each version and kept in kagglehub's cache; without one, the whole dataset is fetched and
read as a folder. A public dataset needs no account; others need KAGGLE_API_TOKEN, and consent on its page.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peftkit.data.file_rows import describe_file, read_file
from peftkit.data.folder_rows import describe_folder, read_folder
from peftkit.data.rows import BadRow, Row, printable
from peftkit.errors import DataError, MissingDependencyError, first_line

_WORD = re.compile(r"(?P<handle>(?P<dataset>[\w-]+/[\w-]+)(?:/versions/\d+)?)(?:/(?P<file>.+))?")
_ADVICE = {
    401: "is private or wants consent; accept its terms on kaggle.com and set KAGGLE_API_TOKEN",
    403: "is private or wants consent; accept its terms on kaggle.com and set KAGGLE_API_TOKEN",
    404: "is not on Kaggle; check owner, name, version and file",
}


def read_kaggle(word: str) -> Iterator[Row | BadRow]:
    """Fetch a dataset or one of its files, and read the rows.

    Args:
        word: `owner/name`, then perhaps `/versions/N`, then perhaps `/` and a file.

    Raises:
        DataError: The word is not usable, Kaggle does not give it, or what it gives is no data.
        MissingDependencyError: kagglehub is not installed.
    """
    path = _fetch(word)
    dataset = _match(word)["dataset"]
    if path.is_dir():
        return read_folder(path, name=dataset)
    return read_file(path, name=f"{dataset}/{_match(word)['file']}")


def describe_kaggle(word: str) -> dict[str, Any]:
    """Return name, version, and size and sha256 of what was fetched."""
    path = _fetch(word)
    version = re.search(r"/versions/(\d+)", path.as_posix())
    described = describe_folder(path) if path.is_dir() else describe_file(path)
    return described | {"name": f"kaggle:{printable(word)}", "version": int(version[1]) if version else None}


def _match(word: str) -> re.Match[str]:
    match = _WORD.fullmatch(word)
    if match is None:
        raise DataError(f"kaggle:{printable(word)} names no dataset; write kaggle:owner/name/file.csv")
    return match


@functools.cache
def _fetch(word: str) -> Path:
    match = _match(word)
    try:
        import kagglehub
    except ImportError as error:
        raise MissingDependencyError(
            "kaggle: needs kagglehub, which is not installed; run `pip install 'peftkit[kaggle]'`"
        ) from error
    logging.getLogger("kagglehub").setLevel(logging.ERROR)  # it remarks on standard output
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off
            return Path(kagglehub.dataset_download(match["handle"], path=match["file"]))
    except Exception as error:  # kagglehub lets those of requests, of the archive and of the file system through
        response = getattr(error, "response", None)
        advice = _ADVICE.get(response.status_code) if response is not None else None
        advice = advice or f"cannot be fetched ({first_line(error)}); check the network and try again"
        raise DataError(f"kaggle:{printable(word)} {advice}") from error
