"""Folders, and places that fsspec knows by an address (`s3://`, `memory://`), as homes of an adapter.

An adapter is written with its passport last, and loses it first where it is replaced: a place that was written by half
is no adapter.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from peftkit.adapter.passport import PASSPORT, file_hash
from peftkit.errors import (
    AdapterError,
    ConfigError,
    MissingDependencyError,
    OutputError,
    PeftkitError,
    RemoteError,
    first_line,
)
from peftkit.rundir import atomic_folder
from peftkit.share.staged import ALLOWED, REQUIRED, hashes, require_size

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Folder:
    """A folder on a disk of this machine, or one that is mounted there."""

    path: Path

    def push(self, staged: Path, *, force: bool) -> dict[str, Any]:
        """Copy a staged adapter there in one piece.

        Raises:
            OutputError: There is something already, and it is no adapter or `force` is not given.
        """
        if not (force and self._may_go()):
            with atomic_folder(self.path) as folder:
                shutil.copytree(staged, folder, dirs_exist_ok=True)
            return self._written()
        new, old = (self.path.parent / f".{self.path.name}.{word}" for word in ("new", "replaced"))
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
        with atomic_folder(new) as folder:
            shutil.copytree(staged, folder, dirs_exist_ok=True)
        try:
            self.path.rename(old)
            new.rename(self.path)
        except OSError as error:
            raise OutputError(f"'{self.path}' cannot be replaced: {error.strerror}; give another name") from error
        shutil.rmtree(old, ignore_errors=True)
        return self._written()

    def pull(self, folder: Path) -> dict[str, Any]:
        """Copy the files of an adapter from there into a folder.

        Raises:
            AdapterError: There is no adapter, or a file of it is a link or too large.
        """
        try:
            held = {path.name for path in self.path.iterdir()}
            _require_adapter(str(self.path), held)
            for name in (name for name in ALLOWED if name in held):
                path = self.path / name
                if path.is_symlink() or not path.is_file():
                    raise AdapterError(f"'{path}' is no plain file, and is not read")
                with path.open("rb") as source:
                    _copy(source, folder / name, f"'{path}'", ALLOWED[name])
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise AdapterError(
                f"'{error.filename}' cannot be read: {error.strerror}; give the folder of an adapter, or hf:owner/name"
            ) from error
        return {"place": str(self.path)}

    def _written(self) -> dict[str, Any]:
        return {"place": str(self.path), "files": hashes(self.path)}

    def _may_go(self) -> bool:
        """Whether a folder stands there that holds an adapter alone, or nothing."""
        if not self.path.is_dir() or self.path.is_symlink():
            return False
        held = {path.name for path in self.path.iterdir()}
        if not held or set(REQUIRED) <= held <= set(ALLOWED):
            return True
        raise OutputError(f"'{self.path}' holds other files than an adapter's, and is not replaced; give another name")


@dataclass(frozen=True)
class Address:
    """A place that fsspec reaches.

    Attributes:
        url: Its address, which may hold a password.
    """

    url: str

    @property
    def name(self) -> str:
        """What it is called in messages: the address without secrets."""
        from peftkit.share.remote_errors import redact_address

        return redact_address(self.url)

    def push(self, staged: Path, *, force: bool) -> dict[str, Any]:
        """Copy a staged adapter there, passport last, and read it back.

        Raises:
            OutputError: There are files already, and `force` is not given or they are not an adapter's.
            RemoteError: The place refuses or is out of reach.
        """
        with self._open() as (files, root):
            held = {name for name, _ in self._list(files, root)}
            if held and not (force and held <= set(ALLOWED)):
                advice = "pass --force to replace it" if held <= set(ALLOWED) and not force else "give another name"
                raise OutputError(f"{self.name} holds files and is not written over; {advice}")
            files.makedirs(root, exist_ok=True)
            for name in sorted(held, key=lambda name: (name != PASSPORT, name)):
                files.rm_file(f"{root}/{name}")
            for path in sorted(staged.iterdir(), key=lambda path: (path.name == PASSPORT, path.name)):
                files.put_file(str(path), f"{root}/{path.name}")
                digest = _hash_of(files, f"{root}/{path.name}")
                if digest != file_hash(path):
                    raise RemoteError(f"{self.name} gives '{path.name}' back changed; push again")
        return {"place": self.name, "files": hashes(staged)}

    def pull(self, folder: Path) -> dict[str, Any]:
        """Copy the files of an adapter from there into a folder.

        Raises:
            AdapterError: There is no adapter, or a file of it is too large.
            RemoteError: The place refuses or is out of reach.
        """
        with self._open() as (files, root):
            listed = dict(self._list(files, root))
            _require_adapter(self.name, set(listed))
            for name in (name for name in ALLOWED if name in listed):
                require_size(f"'{name}' in {self.name}", listed[name] or 0, ALLOWED[name])
                with files.open(f"{root}/{name}", "rb") as source:
                    _copy(source, folder / name, f"'{name}' in {self.name}", ALLOWED[name])
        return {"place": self.name}

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, str]]:
        import fsspec

        from peftkit.share.remote_errors import redact

        try:
            files, root = fsspec.core.url_to_fs(self.url)
            yield files, root.rstrip("/")
        except PeftkitError:
            raise
        except ImportError as error:
            raise MissingDependencyError(
                f"{self.name} needs a library that is not here: {redact(str(error))}"
            ) from None
        except FileNotFoundError:
            raise RemoteError(f"{self.name} is not there; check the address") from None
        except PermissionError:
            raise RemoteError(f"{self.name} refuses access; check the credentials of this kind of place") from None
        except ValueError as error:
            raise ConfigError(
                f"{self.name} is no address that is known here: {redact(first_line(error), self.url)}"
            ) from None
        except Exception as error:  # every kind of place has errors of its own
            raise RemoteError(f"{self.name} cannot be used: {redact(first_line(error), self.url)}") from None

    def _list(self, files: Any, root: str) -> list[tuple[str, int | None]]:
        """Return names and sizes of what stands directly in the place; a folder in it has no size."""
        try:
            files.invalidate_cache()
            found = files.ls(root, detail=True)
        except FileNotFoundError:
            return []
        return [(one["name"].rstrip("/").rpartition("/")[2], one.get("size")) for one in found]


def _require_adapter(place: str, held: set[str]) -> None:
    for name in REQUIRED:
        if name not in held:
            shown = ", ".join(sorted(held)[:5]) or "nothing"
            raise AdapterError(f"{place} is no adapter with a passport: it has no {name} (it holds {shown})")


def _copy(source: IO[bytes], target: Path, what: str, most: int) -> None:
    """Copy a file, but not more of it than its kind may have."""
    seen = 0
    with target.open("wb") as written:
        while block := source.read(_BLOCK):
            seen += len(block)
            require_size(what, seen, most)
            written.write(block)


def _hash_of(files: Any, path: str) -> str:
    digest = hashlib.sha256()
    with files.open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
