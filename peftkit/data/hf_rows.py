"""The rows of a dataset on the Hugging Face hub, streamed through `datasets`.

    hf:stanfordnlp/imdb
    hf:owner/name:config@revision#train[:1000]+validation
    hf:./a-cloned-dataset#test

Behind the name may stand a configuration, a commit, tag or branch, and splits in the notation of `datasets`. Without
splits, `train` is read, or the only one. Rows are read as they arrive, so `train[:1000]` fetches no more than it needs;
percentages and negative numbers need a dataset whose card states how many rows it has. The branch is resolved to a
commit before anything is read. Class labels become their names, and pictures and sound stay undecoded. No code of a
dataset's author is run: `datasets` has no such thing any more.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.data.rows import BadRow, Row, printable
from peftkit.data.values import plain
from peftkit.errors import DataError, first_line
from peftkit.model.licence import card_licence, read_front_matter, read_text

_WORD = re.compile(r"(?P<repo>[^:@#]+)(?::(?P<config>[^@#]+))?(?:@(?P<revision>[^#]+))?(?:#(?P<split>.+))?")
_UNKNOWN_LENGTH = 2**62


@dataclass(frozen=True)
class _Dataset:
    repo: str
    config: str | None
    revision: str | None
    split: str | None

    @property
    def is_local(self) -> bool:
        return self.repo.startswith((".", "/", "~"))

    @property
    def path(self) -> Path:
        """The folder, if it is local."""
        return Path(self.repo).expanduser()

    @property
    def name(self) -> str:
        """Repository, or the folder's name, with the configuration."""
        name = self.path.resolve().name if self.is_local else self.repo
        return printable(f"{name}:{self.config}" if self.config else name)


def read_hf(word: str) -> Iterator[Row | BadRow]:
    """Open a dataset and stream its rows.

    Args:
        word: Repository or local folder, then perhaps `:config`, `@revision` and `#splits`.

    Raises:
        DataError: The word is not usable, the hub does not give the dataset, or it has no such configuration or split.
    """
    dataset = _parse(word)
    splits = _open(dataset)
    return _rows(dataset, splits, _slices(dataset, splits))


def describe_hf(word: str) -> dict[str, Any]:
    """Return repository, configuration, commit (None for a local folder) and splits; licence and language if known."""
    dataset = _parse(word)
    commit, card = (None, _local_card(dataset)) if dataset.is_local else _commit(dataset.repo, dataset.revision)
    return {
        "name": dataset.name,
        "repo": dataset.repo,
        "config": dataset.config,
        "revision": commit,
        "split": _split(dataset, _open(dataset)),
        **_stated(card),
    }


def _local_card(dataset: _Dataset) -> Mapping[str, Any]:
    return read_front_matter(read_text(dataset.path / "README.md"))


def _stated(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a card says of licence and language, if it says that."""
    licence = card_licence(card, found="the card")
    named = licence and (licence.name if licence.id == "other" else licence.id)
    given = card.get("language")
    languages = [one for one in (given if isinstance(given, list) else [given]) if isinstance(one, str)]
    return ({"licence": named} if named else {}) | ({"languages": languages} if languages else {})


def _parse(word: str) -> _Dataset:
    match = _WORD.fullmatch(word)
    if match is None:
        raise DataError(f"hf:{printable(word)} names no dataset; write hf:owner/name:config@revision#split")
    dataset = _Dataset(**match.groupdict())
    if dataset.is_local and not dataset.path.is_dir():
        raise _error(dataset, "is no folder", f"check {printable(dataset.repo)}, or write owner/name for the hub")
    if not dataset.is_local and dataset.path.is_dir():  # `datasets` would take the folder
        raise _error(dataset, "is also a folder here", f"write hf:./{printable(dataset.repo)} for it, or go elsewhere")
    if dataset.is_local and dataset.revision:
        raise _error(dataset, "is a folder, which has no revision", "leave it out")
    return dataset


@functools.cache
def _commit(repo: str, revision: str | None) -> tuple[str, Mapping[str, Any]]:
    """Ask the hub which commit a branch or tag is, and for the card's head; once, so that what is read is reported."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    place = f"hf:{printable(repo)}"
    try:
        found = HfApi().dataset_info(repo, revision=revision)
        card: Any = found.card_data
        return str(found.sha), card.to_dict() if card else {}
    except GatedRepoError as error:
        raise DataError(f"{place} is gated; accept its terms on its page, and run `hf auth login`") from error
    except RepositoryNotFoundError as error:
        advice = "check the name, and for a private one run `hf auth login`"
        raise DataError(f"{place} is no dataset on the hub; {advice}") from error
    except RevisionNotFoundError as error:
        raise DataError(f"{place} has no revision {printable(revision or '')}; check its branches and tags") from error
    except Exception as error:  # of HTTP and of the network, by different libraries
        raise DataError(f"{place} cannot be had from the hub ({first_line(error)}); check the network") from error


@functools.cache
def _open(dataset: _Dataset) -> Mapping[str, Any]:
    """Return the splits of a dataset, none of them read yet."""
    import datasets

    datasets.disable_progress_bars()
    path = str(dataset.path) if dataset.is_local else dataset.repo
    revision = None if dataset.is_local else _commit(dataset.repo, dataset.revision)[0]
    try:
        splits: Mapping[str, Any] = datasets.load_dataset(path, dataset.config, revision=revision, streaming=True)
    except Exception as error:  # whatever a loader of a format raises
        raise _error(dataset, f"cannot be opened ({first_line(error)})", "check its name and configuration") from error
    return splits


def _slices(dataset: _Dataset, splits: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Return name, first row and end of each slice that is asked for."""
    from datasets import ReadInstruction

    split = _split(dataset, splits)
    lengths = {name: _length(part) for name, part in splits.items()}
    try:
        slices = ReadInstruction.from_spec(split).to_absolute(
            {name: _UNKNOWN_LENGTH if length is None else length for name, length in lengths.items()}
        )
    except (ValueError, AssertionError) as error:
        raise _error(dataset, f"has no split {printable(split)}", f"it has {', '.join(splits)}") from error
    for one in slices:
        if lengths[one.splitname] is None and re.search(r"%|-\d", split):
            what = f"does not state how many rows {one.splitname} has"
            raise _error(dataset, what, f"count in rows from its begin, such as #{one.splitname}[:1000]")
    return [(one.splitname, one.from_, one.to) for one in slices]


def _split(dataset: _Dataset, splits: Mapping[str, Any]) -> str:
    """Return the splits that are asked for; without a word of them, train or the only one."""
    if dataset.split is not None:
        return dataset.split
    if "train" in splits or len(splits) == 1:
        return "train" if "train" in splits else next(iter(splits))
    raise _error(dataset, f"has the splits {', '.join(splits)}", f"choose one, such as #{next(iter(splits))}")


def _length(split: Any) -> int | None:
    """Return a split's rows, where the dataset's card states them."""
    stated = (split.info.splits or {}).get(str(split.split))
    return stated.num_examples if stated is not None and stated.num_examples else None


def _rows(dataset: _Dataset, splits: Mapping[str, Any], slices: list[tuple[str, int, int]]) -> Iterator[Row | BadRow]:
    empty = True
    for name, first, end in slices:
        part = splits[name]
        if part.features is not None:
            part = part.decode(False)
        if first:
            part = part.skip(first)
        if end < _UNKNOWN_LENGTH:
            part = part.take(end - first)
        labels = _label_names(part.features or {})
        try:
            for index, values in enumerate(part, first):
                empty = False
                named = {key: labels[key](value) if key in labels else value for key, value in values.items()}
                yield Row(f"{dataset.name}#{name}[{index}]", plain(named))
        except Exception as error:  # of HTTP, of a format, or of a column that changes its type
            what = f"cannot be read at or behind {name}[{first}] ({first_line(error)})"
            raise _error(dataset, what, "check the network, and the files of the dataset") from error
    if empty:
        raise _error(dataset, "gives no rows", "choose another split or slice")


def _label_names(features: Mapping[str, Any]) -> dict[str, Any]:
    """Return for each column of class labels, or of lists of them, the function from number to name."""
    from datasets import ClassLabel

    def namer(feature: Any) -> Any:
        # -1 stands for a label that is not told.
        return lambda value: None if value is None or value < 0 else feature.int2str(value)

    names = {}
    for column, feature in features.items():
        if isinstance(feature, ClassLabel):
            names[column] = namer(feature)
        elif isinstance(inner := getattr(feature, "feature", None), ClassLabel):
            one = namer(inner)
            names[column] = lambda values, one=one: None if values is None else [one(value) for value in values]
    return names


def _error(dataset: _Dataset, what: str, advice: str) -> DataError:
    return DataError(f"hf:{dataset.name} {what}; {advice}")
