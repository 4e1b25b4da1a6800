"""The file that an adapter travels in: a zip file of few known names, written in one way and read with distrust.

A zip file says everything twice, and most ways of attacking its readers lie in between. Here all that it says must
agree: entries lie one behind the other from the first byte to the directory, which lies before the last 22 bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
from peftkit.adapter.card import CARD
from peftkit.adapter.passport import PASSPORT
from peftkit.errors import AdapterError, OutputError
from peftkit.share.deflate import BLOCK, deflate, inflate
from peftkit.share.staged import ALLOWED, SIGNATURE
from peftkit.ui import size as in_words

TOKENIZER_FILES = tuple(name for name in ALLOWED if name not in (PEFT_CONFIG, PASSPORT, CARD, WEIGHTS, SIGNATURE))
NAMES = (PEFT_CONFIG, PASSPORT, CARD, *TOKENIZER_FILES, WEIGHTS)
"""All names that a pack may hold, in the order in which they stand there."""
_RATIO = 16  # a file is at most so many times as large as its compressed bytes, and _FREE
_FREE = 1 << 20
_LARGEST = 0xFFFF_FFFE  # what a zip file without extensions can say

# Of a local header: signature, version, flags, method, time, date, CRC, sizes, lengths of name and extra field.
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_SIGNATURES = (b"PK\3\4", b"PK\1\2", b"PK\5\6")
_STORED, _DEFLATED = 0, 8
_DATE = 33  # 1 January 1980: the earliest there is
_VERSION = 20
_UNIX = 3 << 8
_FILE = 0o100644
_UTF8 = 1 << 11


@dataclass(frozen=True)
class Entry:
    """One file in an archive.

    Attributes:
        name: One of `NAMES`.
        method: 0 for bytes as they are, 8 for DEFLATE.
        crc: CRC-32 of its content.
        compressed: Its bytes in the archive.
        size: Bytes of its content.
        start: Where its bytes begin.
    """

    name: str
    method: int
    crc: int
    compressed: int
    size: int
    start: int


def write_archive(out: BinaryIO, files: Sequence[Path]) -> None:
    """Write files into an archive, in the order of `NAMES`; the bytes depend on names and contents alone.

    Args:
        out: Empty, and such that its place can be changed.
        files: Their names are among `NAMES`.

    Raises:
        OutputError: A file, or all together, are larger than a zip file can hold.
    """
    directory = b""
    ordered = sorted(files, key=lambda one: NAMES.index(one.name))
    for file in ordered:
        name, start = file.name.encode(), out.tell()
        out.write(bytes(_LOCAL.size) + name)
        with file.open("rb") as source:
            made = deflate(source, out.write)
        end = out.tell()
        if max(end, made.size) > _LARGEST:
            raise OutputError(f"'{file.name}' is larger than a pack can hold, which is 4 GiB; share the folder instead")
        common = (_VERSION, 0, _DEFLATED, 0, _DATE, made.crc, made.compressed, made.size, len(name), 0)
        out.seek(start)
        out.write(_LOCAL.pack(_SIGNATURES[0], *common))
        out.seek(end)
        directory += _CENTRAL.pack(_SIGNATURES[1], _UNIX | _VERSION, *common, 0, 0, 0, _FILE << 16, start) + name
    end, count = out.tell(), len(ordered)
    out.write(directory + _END.pack(_SIGNATURES[2], 0, 0, count, count, len(directory), end, 0))


def read_directory(stream: BinaryIO, where: str) -> list[Entry]:
    """Return the files of an archive, after checking that everything that it says of them agrees.

    Args:
        stream: The archive.
        where: Its name, as messages give it.

    Raises:
        AdapterError: It is no archive of an adapter, or one that nobody would write in good faith.
    """
    try:
        return list(_entries(stream, where))
    except (struct.error, UnicodeDecodeError) as error:
        raise _refused(where, "it is damaged") from error


def _entries(stream: BinaryIO, where: str) -> Iterator[Entry]:
    length = stream.seek(0, 2)
    directory_end = stream.seek(max(0, length - _END.size))
    signature, disk, first_disk, here, count, directory_size, start, comment = _END.unpack(stream.read(_END.size))
    if signature != _SIGNATURES[2] or comment:
        raise AdapterError(f"'{where}' is no zip file, or something stands behind its end; give a file of peftkit pack")
    if disk or first_disk or here != count or start + directory_size != directory_end:
        raise _refused(where, "its directory is not where it should be")
    if not 0 < count <= len(NAMES):
        raise _refused(where, f"it holds {count} files, and a pack has 1 to {len(NAMES)}")
    if directory_size > count * 2048:
        raise _refused(where, "its directory is too large")
    stream.seek(start)
    directory = stream.read(directory_size)
    at = expected = 0
    seen: set[str] = set()
    for _ in range(count):
        one, more, place = _central(directory, at, where)
        at += more
        if one.name.casefold() in seen:
            raise _refused(where, f"'{one.name}' stands in it twice")
        seen.add(one.name.casefold())
        if place != expected:
            raise _refused(where, f"'{one.name}' overlaps another file, or leaves a gap")
        body = _local(stream, place, one, where)
        expected = body + one.compressed
        if expected > start:
            raise _refused(where, f"'{one.name}' is larger than the archive")
        yield Entry(one.name, one.method, one.crc, one.compressed, one.size, body)
    if at != directory_size or expected != start:
        raise _refused(where, "it holds bytes that belong to no file")


def _central(directory: bytes, at: int, where: str) -> tuple[Entry, int, int]:
    """Return an entry of the directory, its length, and where it says that the file begins."""
    signature, made_by, _, flags, method, _, _, crc, compressed, size, named, extra, comment, disk, _, kind, place = (
        _CENTRAL.unpack_from(directory, at)
    )
    raw = directory[at + _CENTRAL.size : at + _CENTRAL.size + named]
    if signature != _SIGNATURES[1] or disk or len(raw) != named:
        raise _refused(where, "its directory is damaged")
    name = raw.decode("utf-8")
    if name not in NAMES:
        raise _refused(where, f"it holds {_shown(name)}, which is not among the files of an adapter")
    unix = kind >> 16 & 0o170000 if made_by >> 8 == _UNIX >> 8 else 0
    if unix not in (0, 0o100000) or kind & 0x10:  # 0 where the writer noted none; 0x10 is a folder for DOS
        raise _refused(where, f"'{name}' in it is a link, folder or device, not a plain file")
    if flags & ~_UTF8:
        raise _refused(where, f"'{name}' in it is encrypted, or written as a stream, whose sizes cannot be checked")
    if method not in (_STORED, _DEFLATED):
        raise _refused(where, f"'{name}' in it is compressed in a way that is not read (method {method})")
    if (method == _STORED and size != compressed) or size > compressed * _RATIO + _FREE or size > _LARGEST:
        raise _refused(where, f"'{name}' in it would grow from {in_words(compressed)} to {in_words(size)}")
    if size > ALLOWED[name]:
        raise _refused(where, f"'{name}' in it has {in_words(size)}, and {in_words(ALLOWED[name])} are taken at most")
    return Entry(name, method, crc, compressed, size, 0), _CENTRAL.size + named + extra + comment, place


def _local(stream: BinaryIO, place: int, one: Entry, where: str) -> int:
    """Check the header before a file against the directory, and return where its bytes begin."""
    stream.seek(place)
    signature, _, flags, method, _, _, crc, compressed, size, named, extra = _LOCAL.unpack(stream.read(_LOCAL.size))
    name = stream.read(named)
    stated = (method, crc, compressed, size, name)
    if signature != _SIGNATURES[0] or flags & ~_UTF8:
        raise _refused(where, f"'{one.name}' in it has no header of its own, or another one than the directory says")
    if stated != (one.method, one.crc, one.compressed, one.size, one.name.encode()):
        raise _refused(where, f"'{one.name}' in it is described in two ways")
    return int(place + _LOCAL.size + named + extra)


def content(stream: BinaryIO, entry: Entry, where: str) -> Iterator[bytes]:
    """Give a file's content in pieces, and check length and CRC.

    Raises:
        AdapterError: They are not what the archive states.
    """
    crc = given = 0
    try:
        pieces = _pieces(stream, entry)
        for piece in inflate(pieces, entry.size) if entry.method == _DEFLATED else pieces:
            crc, given = zlib.crc32(piece, crc), given + len(piece)
            yield piece
    except ValueError as error:
        raise _refused(where, f"'{entry.name}' in it {error}") from error
    if given != entry.size or crc != entry.crc:
        raise _refused(where, f"'{entry.name}' in it is not what it should be (its length or CRC differs)")


def _pieces(stream: BinaryIO, entry: Entry) -> Iterator[bytes]:
    stream.seek(entry.start)
    left = entry.compressed
    while left:
        piece = stream.read(min(BLOCK, left))
        if not piece:
            raise ValueError("ends too early")
        left -= len(piece)
        yield piece


def _refused(where: str, why: str) -> AdapterError:
    return AdapterError(f"'{where}' is not unpacked: {why}; ask for it again")


def _shown(name: str) -> str:
    """Return a name that may hold anything, short and on one line."""
    return ascii(name if len(name) <= 60 else f"{name[:60]}...")
