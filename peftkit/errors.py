"""One tree of errors, with an exit code for each kind.

Every error that a user can cause is a `PeftkitError`: its message is one sentence that says what was wrong, where,
and what to do. The command line prints the message alone and leaves with `exit_code`; anything else is a bug and
keeps its traceback.
"""

from __future__ import annotations


class PeftkitError(Exception):
    """Base of everything that peftkit raises on purpose."""

    exit_code = 1


class ConfigError(PeftkitError):
    """A key, value, preset, recipe or configuration file is not usable."""

    exit_code = 2


class DataError(PeftkitError):
    """A data file, column or row is not usable."""

    exit_code = 3


class ModelError(PeftkitError):
    """A base model or tokenizer is not usable."""

    exit_code = 4


class AdapterError(PeftkitError):
    """An adapter is damaged, incomplete, or belongs to another base model."""

    exit_code = 5


class OutputError(PeftkitError):
    """A file or folder cannot be written, or holds work that must not be overwritten."""

    exit_code = 6


class AssetError(PeftkitError):
    """An embedded asset cannot be fetched, or is not the file that was pinned."""

    exit_code = 7


class TrainingError(PeftkitError):
    """Training cannot go on."""

    exit_code = 8


class MissingDependencyError(PeftkitError):
    """A library or device that the request needs is not there."""

    exit_code = 9


class RemoteError(PeftkitError):
    """The hub or another place that keeps files is out of reach, refuses, or has a fault."""

    exit_code = 10


class DoesNotFitError(PeftkitError):
    """A run needs more memory than the card has."""

    exit_code = 11


class MemoryGoneError(DoesNotFitError):
    """Memory ran out, and there is nothing smaller that could be tried."""


class NotModelledError(PeftkitError):
    """A part of a run has no model that a plan could use."""

    exit_code = 12


class CheckpointError(PeftkitError):
    """A run cannot go on: a checkpoint is damaged or missing, or belongs to another run."""

    exit_code = 13


class NotFiniteError(TrainingError):
    """A loss or gradient is not finite; the weights are those before the step."""

    exit_code = 14


class RegressionError(PeftkitError):
    """A benchmark came out worse than its baseline allows."""

    exit_code = 15


def first_line(error: BaseException) -> str:
    """Return what an error says first, of at most 300 characters; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
