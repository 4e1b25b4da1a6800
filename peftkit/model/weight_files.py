"""The safetensors files of a model: which tensor stands where, and its rows without loading the rest.

A safetensors file is 8 bytes of header length, a JSON header, and the tensors' bytes one after another
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from peftkit.errors import ModelError

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
BLOCK = 1 << 22
"""Bytes that are read at once where a whole tensor is not needed."""
_MAX_HEADER = 1 << 24  # room for 100,000 tensors; a larger one would take more memory than the weights
_MAX_VALUES = 1 << 48
_MAX_SIDES = 8
_TORCH_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2} | dict.fromkeys(
    ("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 1
)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file.

    Attributes:
        name: Its name.
        file: The file that holds it.
        dtype: Its type by the format's name, such as `BF16`.
        shape: Its shape.
        start: Where its bytes begin in the file.
        size: How many bytes it has.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def rows(self) -> int:
        """Number of rows of the matrix that it is read as: its last dimension is a row, all others count rows."""
        return math.prod(self.shape[:-1]) if len(self.shape) > 1 else math.prod(self.shape)

    @property
    def columns(self) -> int:
        """Number of columns of that matrix; one for a vector."""
        return self.shape[-1] if len(self.shape) > 1 else 1

    @property
    def torch_dtype(self) -> torch.dtype:
        """Its type in torch.

        Raises:
            ModelError: torch has no such type.
        """
        import torch

        if self.dtype not in _TORCH_NAMES:
            raise ModelError(f"the tensor '{self.name}' in '{self.file}' is of type {self.dtype}, which is not read")
        dtype = getattr(torch, _TORCH_NAMES[self.dtype])
        assert isinstance(dtype, torch.dtype)
        return dtype

    def read_rows(self, stream: BinaryIO, first: int, count: int, into: torch.Tensor | None = None) -> torch.Tensor:
        """Read rows from a stream of its file.

        Args:
            stream: Opened for reading bytes.
            first: Number of the first row.
            count: How many.
            into: Where to put them, shape (count, columns) and of its own dtype, contiguous; else in new memory.

        Returns:
            Shape (count, columns), in its own dtype; the memory is the caller's.
        """
        import torch

        rows = torch.empty((count, self.columns), dtype=self.torch_dtype) if into is None else into
        block = rows.view(-1).view(torch.uint8).numpy().data
        stream.seek(self.start + first * (self.size // max(1, self.rows)))
        if stream.readinto(block) != len(block):  # type: ignore[attr-defined]
            raise ModelError(f"'{self.file}' ends before its tensor '{self.name}' does; fetch it again")
        return rows


@dataclass(frozen=True)
class WeightFile:
    """One file: its header with the length before it, and its tensors in the order of their bytes."""

    path: Path
    header: bytes
    tensors: tuple[StoredTensor, ...]

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(tensor.size for tensor in self.tensors)


def weight_files(folder: Path) -> list[WeightFile]:
    """Return the files that transformers would load from a folder: those of its index, else the single one, else all.

    Raises:
        ModelError: There are none, one is damaged, or a tensor stands in two of them.
    """
    files = [read_weight_file(path) for path in _paths(folder)]
    seen: dict[str, Path] = {}
    for file in files:
        for tensor in file.tensors:
            if tensor.name in seen:
                raise ModelError(f"'{tensor.name}' stands in '{seen[tensor.name]}' and in '{file.path}'; remove one")
            seen[tensor.name] = file.path
    return files


def _paths(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"'{index}' is damaged; fetch the model again") from error
        for name in names:
            if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
                raise ModelError(f"'{folder}' lacks '{name}', which its index names; fetch the model again")
        return [folder / name for name in names]
    found = [folder / SINGLE] if (folder / SINGLE).is_file() else sorted(folder.glob("*.safetensors"))
    if not found:
        raise ModelError(f"'{folder}' holds no .safetensors weights")
    return found


def read_weight_file(path: Path) -> WeightFile:
    """Read a file's header, and check that its tensors fill the file without a gap.

    Raises:
        ModelError: It is no safetensors file, or is damaged.
    """
    damaged = f"'{path}' is not a safetensors file, or is damaged; fetch it again"
    if path.exists() and not path.is_file():
        raise ModelError(f"'{path}' is no plain file; fetch it again")
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _MAX_HEADER:
                raise ModelError(damaged)
            text = stream.read(length)
            if len(text) < length:
                raise ModelError(f"'{path}' ends before its header does; fetch it again")
        header = json.loads(text, object_pairs_hook=_table)
        _require_texts(header.pop("__metadata__", {}))
        tensors = sorted(_tensors(path, header, 8 + length), key=lambda tensor: (tensor.start, tensor.size))
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(damaged) from error
    end = 8 + length
    for tensor in tensors:
        if tensor.start != end:
            raise ModelError(damaged)
        end += tensor.size
    if end > path.stat().st_size:
        last = f"its tensor '{tensors[-1].name}'" if tensors else "its header"
        raise ModelError(f"'{path}' ends before {last} does; fetch it again")
    if end < path.stat().st_size:
        raise ModelError(f"'{path}' holds bytes that belong to no tensor; fetch it again")
    return WeightFile(path, struct.pack("<Q", length) + text, tuple(tensors))


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a table of the header, if each name stands in it once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands in the header twice")
    return found


def _require_texts(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(one, str) for one in metadata.values()):
        raise ValueError("the metadata are no table of texts")


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a file; unlike a mapped file, it is not in memory twice meanwhile.

    Raises:
        ModelError: It is no safetensors file, or is damaged.
    """
    tensors = read_weight_file(path).tensors
    with path.open("rb") as stream:
        return {one.name: one.read_rows(stream, 0, one.rows).reshape(one.shape) for one in tensors}


def _tensors(path: Path, header: dict[str, Any], data: int) -> Iterator[StoredTensor]:
    """Give the tensors of a header, whose dtype, shape and bytes go together."""
    for name, entry in header.items():
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        begin, end = offsets
        numbers = [*shape, begin, end]
        if not isinstance(dtype, str) or len(entry) != 3 or any(type(one) is not int for one in numbers):
            raise TypeError("a tensor is described by other things than dtype, shape and place")
        if min(numbers) < 0 or begin > end or len(shape) > _MAX_SIDES:
            raise ValueError("a shape or place is impossible")
        if math.prod(max(1, side) for side in shape) > _MAX_VALUES:  # sides of no values would hide it
            raise ValueError("a shape is impossible")
        if dtype in _BYTES and math.prod(shape) * _BYTES[dtype] != end - begin:
            raise ValueError("a tensor has another number of bytes than its shape takes")
        yield StoredTensor(name, path, dtype, tuple(shape), data + begin, end - begin)


def format_name(dtype: torch.dtype) -> str:
    """Return the format's name of a type of torch."""
    plain = str(dtype).removeprefix("torch.")
    return next(name for name, torch_name in _TORCH_NAMES.items() if torch_name == plain)


def write_header(entries: dict[str, tuple[str, tuple[int, ...], int]], metadata: dict[str, str] | None) -> bytes:
    """Return a header with its length before it, padded to a multiple of 8 bytes.

    Args:
        entries: dtype, shape and bytes of each tensor by name, in the order of their bytes.
        metadata: What stands under `__metadata__`.
    """
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape, size) in entries.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def metadata_of(file: WeightFile) -> dict[str, str] | None:
    """Return what stands under `__metadata__` in a file's header."""
    found: dict[str, str] | None = json.loads(file.header[8:]).get("__metadata__")
    return found
