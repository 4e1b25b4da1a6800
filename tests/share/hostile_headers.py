"""Files of weights with a header that was changed at random, and some that nobody would come to at random."""

import json
import random
import struct
from collections.abc import Callable

PREFIX = "base_model.model.model.layers"
NAMES = [f"{PREFIX}.{layer}.self_attn.q_proj.lora_{part}.weight" for layer in range(3) for part in "AB"]
NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    8,
    64,
    255,
    2**16,
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
    10**30,
    1.5,
    1e300,
)
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F4", "Q4", "", "f32", "F32 ", None, 4, ["F32"])
JUNK = (None, True, "", "x", [], {}, [[]], [0], "0", -1, 1.5, {"a": 1}, [1, 2, 3], "NaN")


def entries() -> dict:
    """A header that is right: six tensors of four floats."""
    return {
        name: {"dtype": "F32", "shape": [2, 2], "data_offsets": [16 * place, 16 * place + 16]}
        for place, name in enumerate(NAMES)
    }


def file_of(header: object, data: bytes = bytes(96), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def mutated(seed: int) -> bytes:
    """Change a good file in one to three ways."""
    draw = random.Random(seed)
    header, data, length = entries(), bytes(96), None
    for _ in range(draw.randint(1, 3)):
        name = draw.choice(list(header)) if header else "x"
        entry = header.setdefault(name, {})
        if not isinstance(entry, dict):
            continue
        kind = draw.randrange(14)
        if kind == 0 and isinstance(entry.get("data_offsets"), list) and entry["data_offsets"]:
            entry["data_offsets"][draw.randrange(len(entry["data_offsets"]))] = draw.choice(NUMBERS)
        elif kind == 1 and isinstance(entry.get("shape"), list) and entry["shape"]:
            entry["shape"][draw.randrange(len(entry["shape"]))] = draw.choice(NUMBERS)
        elif kind == 2:
            entry["dtype"] = draw.choice(DTYPES)
        elif kind == 3:
            entry[draw.choice(("dtype", "shape", "data_offsets", "more"))] = draw.choice(JUNK)
        elif kind == 4:
            header[name] = draw.choice(JUNK)
        elif kind == 5:
            entry.pop(draw.choice(list(entry)), None) if entry else None
        elif kind == 6:
            entry["data_offsets"] = draw.choice(list(entries().values()))["data_offsets"]
        elif kind == 7:
            header[draw.choice(("../../evil", "", "\0", "x" * 5000, "__metadata__", "a/b"))] = header.pop(name)
        elif kind == 8:
            header["__metadata__"] = draw.choice(({"format": "pt"}, {"format": 1}, [], "pt", {"a": {}}, None))
        elif kind == 9:
            data = bytes(draw.choice((0, 1, 95, 97, 4096)))
        elif kind == 10:
            length = draw.choice((0, 1, 7, 2**16, 2**31, 2**63, 2**64 - 1, 10**8, len(json.dumps(header)) - 1))
        elif kind == 11:
            entry["shape"] = [draw.choice((0, 1, 2, 4)) for _ in range(draw.randint(0, 40))]
        elif kind == 12:
            header.pop(name)
        else:
            text = bytearray(json.dumps(header).encode())
            for _ in range(draw.randint(1, 8)):
                text[draw.randrange(len(text))] = draw.randrange(256)
            return file_of(bytes(text), data, length)
    return file_of(header, data, length)


def many(count: int, size: int = 0) -> bytes:
    """Many tensors, of no bytes or one each."""
    parts = (
        f'"t{number}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{number * size},{(number + 1) * size}]}}'
        for number in range(count)
    )
    return file_of(f"{{{','.join(parts)}}}".encode(), bytes(count * size))


TWICE = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})[1:-1]
HEADERS: dict[str, Callable[[], bytes]] = {
    "a million tensors": lambda: many(10**6),
    "a million tensors of a byte": lambda: many(10**6, 1),
    "a header of 100 megabytes": lambda: file_of(b" " * 10**8),
    "a header of all there is": lambda: file_of({}, length=2**64 - 1),
    "a header of terabytes": lambda: file_of({}, length=2**42),
    "a name twice": lambda: file_of(f"{{{TWICE},{TWICE}}}".encode(), bytes(4)),
    "a key twice": lambda: file_of(b'{"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "nested without end": lambda: file_of(b'{"a":' * 10**5 + b"{}" + b"}" * 10**5),
    "lists without end": lambda: file_of(b'{"a":' + b"[" * 10**6 + b"]" * 10**6 + b"}"),
    "digits without end": lambda: file_of(
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 10**6 + b'],"data_offsets":[0,4]}}'
    ),
    "overlapping": lambda: file_of(
        {name: one | {"data_offsets": [0, 16]} for name, one in entries().items()}, bytes(16)
    ),
    "a gap": lambda: file_of({NAMES[0]: entries()[NAMES[1]]}, bytes(32)),
    "a polyglot": lambda: file_of(entries()) + b"PK\3\4hidden",
    "a pickle": lambda: b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93.",
    "a zip of torch": lambda: b"PK\3\4" + bytes(200),
    "a shape that overflows": lambda: file_of(
        {"a": {"dtype": "F32", "shape": [2**32, 2**32, 2**32, 0], "data_offsets": [0, 0]}}, b""
    ),
    "a shape of many sides": lambda: file_of(
        {"a": {"dtype": "U8", "shape": [1] * 10**5, "data_offsets": [0, 1]}}, b"x"
    ),
    "nothing": lambda: b"",
    "seven bytes": lambda: b"1234567",
}
