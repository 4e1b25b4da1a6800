"""One file out of a zip or tar archive; nothing is extracted to disk."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from typing import IO

from peftkit.errors import AssetError

MAX_MEMBER_BYTES = 256 * 2**20
"""A member is held in memory; one above this size (bytes) is refused."""


def read_one(stream: IO[bytes], where: str, member: str) -> bytes:
    """Read one member of one archive into memory: a zip by the names .whl and .zip, else a tar.

    Args:
        stream: The archive's bytes.
        where: Its name, as messages give it.
        member: Exact name of the member.

    Raises:
        AssetError: No such member, no plain file, above `MAX_MEMBER_BYTES`, or the archive cannot be read.
    """
    read = _read_zip if where.endswith((".whl", ".zip")) else _read_tar
    try:
        data = read(stream, where, member)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise AssetError(f"{where} cannot be read as an archive ({error}): delete it and fetch it again") from error
    if data is None:
        raise AssetError(f"{where} has no member {member}: this version of peftkit expects another file, update it")
    return data


def _read_zip(stream: IO[bytes], where: str, member: str) -> bytes | None:
    with zipfile.ZipFile(stream) as archive:
        if member not in archive.NameToInfo:
            return None
        info = archive.NameToInfo[member]
        kind = (info.external_attr >> 16) & 0o170000  # Unix file type; 0 where the writer recorded none
        _check(where, member, info.file_size, plain=not info.is_dir() and kind in (0, 0o100000))
        return _exact(archive.open(info), where, member, info.file_size)


def _read_tar(stream: IO[bytes], where: str, member: str) -> bytes | None:
    with tarfile.open(fileobj=stream) as archive:
        info = next((entry for entry in archive if entry.name == member), None)
        if info is None:
            return None
        content = archive.extractfile(info) if info.isreg() else None
        _check(where, member, info.size, plain=content is not None)
        assert content is not None
        return _exact(content, where, member, info.size)


def _check(where: str, member: str, size: int, *, plain: bool) -> None:
    if not plain:
        raise AssetError(f"{member} in {where} is a link, folder or device, not a plain file: it is not read")
    if size > MAX_MEMBER_BYTES:
        raise AssetError(f"{member} in {where} has {size} bytes, above the limit of {MAX_MEMBER_BYTES}: it is not read")


def _exact(content: IO[bytes], where: str, member: str, size: int) -> bytes:
    with content:
        data = content.read(size + 1)
    if len(data) != size:
        raise AssetError(f"{member} in {where} does not have the {size} bytes that the archive states: it is not used")
    return data
