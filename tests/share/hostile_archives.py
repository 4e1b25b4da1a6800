"""Archives that nobody would write in good faith, each from one that would be unpacked but for one thing."""

import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from peftkit.model.weight_files import write_header

CONFIG = json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}).encode()
WEIGHTS = write_header({"base_model.model.q_proj.lora_A.weight": ("F32", (1, 2), 8)}, {"format": "pt"}) + bytes(8)
LINK, CHARACTERS, BLOCKS, QUEUE, SOCKET, FOLDER = 0o120777, 0o020666, 0o060666, 0o010666, 0o140666, 0o040755


@dataclass(frozen=True)
class Part:
    """One entry; what is None in `local` is said there as in the directory."""

    name: str | bytes
    data: bytes
    method: int = 8
    mode: int = 0o100644
    flags: int = 0
    crc: int | None = None
    size: int | None = None
    compressed: int | None = None
    body: bytes | None = None
    local: dict | None = None
    start: int | None = None
    disk: int = 0


def zipped(data: bytes) -> bytes:
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    return engine.compress(data) + engine.flush()


def archive(*parts: Part, before=b"", between=b"", behind=b"", comment=b"", count=None, disk=0, shift=0) -> bytes:
    """Write entries as they are described, right or wrong."""
    out, directory = bytearray(before), b""
    for part in parts:
        name = part.name if isinstance(part.name, bytes) else part.name.encode()
        body = part.body if part.body is not None else zipped(part.data) if part.method == 8 else part.data
        stated = {
            "name": name,
            "flags": part.flags,
            "method": part.method,
            "crc": zlib.crc32(part.data) if part.crc is None else part.crc,
            "compressed": len(body) if part.compressed is None else part.compressed,
            "size": len(part.data) if part.size is None else part.size,
        }
        start = len(out)
        for said, is_local in ((stated | (part.local or {}), True), (stated, False)):
            common = (said["flags"], said["method"], 0, 33, said["crc"], said["compressed"], said["size"])
            if is_local:
                out += struct.pack("<4s5H3I2H", b"PK\3\4", 20, *common, len(said["name"]), 0) + said["name"] + body
            else:
                where = start if part.start is None else part.start
                lengths = (len(name), 0, 0, part.disk, 0, part.mode << 16, where)
                directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", 3 << 8 | 20, 20, *common, *lengths) + name
        out += between
    number = len(parts) if count is None else count
    end = struct.pack("<4s4H2IH", b"PK\5\6", disk, disk, number, number, len(directory), len(out) + shift, len(comment))
    return bytes(out) + directory + end + comment + behind


def good(*more: Part, config=CONFIG, weights=WEIGHTS) -> tuple[Part, ...]:
    return Part("adapter_config.json", config), Part("adapter_model.safetensors", weights), *more


def first(**changes) -> bytes:
    config, weights = good()
    return archive(replace(config, **changes), weights)


def named(name: str | bytes) -> bytes:
    return archive(*good(Part(name, b"x")))


class Runs:
    """Makes the file `ran` where it is unpickled."""

    def __reduce__(self):
        return open, ("ran", "w")


def with_pickle(name: str) -> bytes:
    return archive(*good(Part(name, pickle.dumps(Runs()))))


def python_zip(write: Callable[[zipfile.ZipFile], object], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        write(file)
    return out.getvalue()


def in_streams(file: zipfile.ZipFile) -> None:
    """Let sizes follow the data, as a writer does that cannot go back."""
    for part in good():
        file.writestr(part.name, part.data)


class Unseekable(io.BytesIO):
    def seekable(self) -> bool:
        return False

    def seek(self, *where):
        raise io.UnsupportedOperation


def streamed() -> bytes:
    out = Unseekable()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        in_streams(file)
    return out.getvalue()


def overlapping() -> bytes:
    """Two entries over one kernel of data, as David Fifield's bomb has thousands."""
    config, weights = good()
    return archive(config, weights, replace(Part("README.md", CONFIG), start=0))


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as file:
        for part in good():
            entry = tarfile.TarInfo(part.name)
            entry.size = len(part.data)
            file.addfile(entry, io.BytesIO(part.data))
    return out.getvalue()


ZEROS = zipped(bytes(1 << 28))
MANY = [Part(f"file{number}", b"") for number in range(10_000)]
ARCHIVES: dict[str, Callable[[], bytes]] = {
    "a folder above": lambda: named("../evil"),
    "many folders above": lambda: named("../" * 20 + "tmp/evil"),
    "an absolute name": lambda: named("/tmp/peftkit-evil"),
    "a drive": lambda: named("C:\\evil"),
    "a folder above for Windows": lambda: named("..\\evil"),
    "a share": lambda: named("\\\\host\\share\\evil"),
    "a folder inside": lambda: named("adapter/README.md"),
    "a folder of its own": lambda: named("adapter/"),
    "the same name in another way": lambda: named("./README.md"),
    "no name": lambda: named(""),
    "a name with a zero": lambda: named("README.md\0.png"),
    "a name that is no text": lambda: named(b"README\xff.md"),
    "a name that looks alike": lambda: named("README\u2024md"),
    "a very long name": lambda: named("x" * 60_000),
    "a stream of Windows": lambda: named("README.md:evil"),
    "a program": lambda: named("evil.py"),
    "pickled weights": lambda: with_pickle("adapter_model.bin"),
    "pickled optimizer": lambda: with_pickle("optimizer.pt"),
    "a link": lambda: first(data=b"/etc/passwd", mode=LINK),
    "a link in place of weights": lambda: archive(good()[0], replace(good()[1], data=b"../../x", mode=LINK)),
    "a character device": lambda: first(mode=CHARACTERS),
    "a block device": lambda: first(mode=BLOCKS),
    "a queue": lambda: first(mode=QUEUE),
    "a socket": lambda: first(mode=SOCKET),
    "a folder by its mode": lambda: first(mode=FOLDER),
    "a bomb": lambda: archive(*good(Part("README.md", b"", body=ZEROS, size=1 << 28, crc=0))),
    "a bomb that says it is small": lambda: archive(*good(Part("README.md", b"", body=ZEROS, size=len(ZEROS), crc=0))),
    "weights of terabytes": lambda: archive(good()[0], replace(good()[1], size=0xFFFFFFFE)),
    "ten thousand files": lambda: archive(*MANY),
    "a wrong number of files": lambda: archive(*good(), count=60_000),
    "fewer files than there are": lambda: archive(*good(), count=1),
    "no files": lambda: archive(),
    "the same name twice": lambda: archive(*good(), Part("adapter_config.json", b"{}")),
    "names that differ in case": lambda: archive(*good(), Part("README.md", b"x"), Part("readme.md", b"y")),
    "another case alone": lambda: archive(Part("Adapter_Config.json", CONFIG), good()[1]),
    "files that overlap": overlapping,
    "a gap between files": lambda: archive(*good(), between=b"hidden"),
    "something before": lambda: archive(*good(), before=b"#!/bin/sh\nexit\n"),
    "something behind": lambda: archive(*good(), behind=b"hidden"),
    "a comment": lambda: archive(*good(), comment=b"hidden"),
    "a second directory": lambda: archive(*good(), comment=archive(*good())),
    "an encrypted file": lambda: first(flags=1),
    "a wrong sum": lambda: first(crc=1),
    "more bytes than stated": lambda: first(size=len(CONFIG) - 1),
    "fewer bytes than stated": lambda: first(size=len(CONFIG) + 1),
    "sizes behind the data": streamed,
    "a size that the header denies": lambda: first(local={"size": 1}),
    "a name that the header denies": lambda: first(local={"name": b"../../../evil.json.x"}),
    "a method that the header denies": lambda: first(local={"method": 0}),
    "flags that the header denies": lambda: first(local={"flags": 1}),
    "a compression that is not read": lambda: python_zip(in_streams, zipfile.ZIP_BZIP2),
    "stored with two sizes": lambda: first(method=0, size=len(CONFIG) + 5),
    "garbage as compressed": lambda: first(body=b"\xff" * 40),
    "bytes behind the compressed ones": lambda: first(body=zipped(CONFIG) + b"hidden"),
    "a stream that does not end": lambda: first(body=zipped(CONFIG)[:-3]),
    "sizes of more than 32 bits": lambda: first(size=0xFFFFFFFF, compressed=0xFFFFFFFF),
    "a second disk": lambda: archive(*good(), disk=1),
    "an entry on another disk": lambda: first(disk=1),
    "a directory elsewhere": lambda: archive(*good(), shift=-7),
    "cut in the middle": lambda: archive(*good())[:150],
    "cut at the end": lambda: archive(*good())[:-5],
    "a tar": tarred,
    "an empty file": lambda: b"",
    "a pickle": lambda: pickle.dumps(Runs()),
    "no weights": lambda: archive(good()[0]),
    "no settings": lambda: archive(good()[1]),
    "weights that are a pickle": lambda: archive(*good(weights=pickle.dumps(Runs()))),
    "settings that are a pickle": lambda: archive(*good(config=pickle.dumps(Runs()))),
    "settings that import": lambda: archive(*good(config=CONFIG[:-1] + b', "auto_mapping": {"parent_library": "os"}}')),
    "a passport of nothing": lambda: archive(*good(Part("peftkit.json", b"{}"))),
}
