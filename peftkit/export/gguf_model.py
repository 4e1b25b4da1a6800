"""A whole model as one GGUF file, which llama.cpp and what is built on it load: streamed, a few rows at a time.

The base's rows are read, changed by the adapter in float32, and rounded once to the file's type, so that the merged
model is never in memory, nor on the disk in another form. Where the order of rows changes, one tensor is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit import machine
from peftkit.errors import AdapterError, ConfigError, ModelError
from peftkit.export.gguf_arch import rope_factors, write_settings
from peftkit.export.gguf_tokenizer import write_tokenizer
from peftkit.export.whole import Whole
from peftkit.merge.plan import Output
from peftkit.merge.rows import BLOCK_VALUES, merged_rows
from peftkit.model.load import load_tokenizer
from peftkit.rundir import atomic, require_new
from peftkit.ui import UI, size

if TYPE_CHECKING:
    import torch

DTYPES = {
    "f32": ("F32", "ALL_F32"),
    "f16": ("F16", "MOSTLY_F16"),
    "bf16": ("BF16", "MOSTLY_BF16"),
    "q8_0": ("Q8_0", "MOSTLY_Q8_0"),
    "q5_1": ("Q5_1", "MOSTLY_Q5_1"),
    "q5_0": ("Q5_0", "MOSTLY_Q5_0"),
    "q4_1": ("Q4_1", "MOSTLY_Q4_1"),
    "q4_0": ("Q4_0", "MOSTLY_Q4_0"),
}
"""gguf's names of the type of a tensor and of a whole file for each of ours."""
_FEW_BITS = ("q5_1", "q5_0", "q4_1", "q4_0")
_SENSITIVE = ("token_embd.weight", "output.weight")
"""What stays at 8 bits in a file of fewer: every token's answer is read off it."""
_ALWAYS_FLOAT = ("position_embd.weight",)
_MB = 10**6


def export_gguf(whole: Whole, out: Path, *, dtype: str = "f16", ui: UI | None = None) -> dict[str, Any]:
    """Write a model as one GGUF file with its tokenizer and chat template.

    Matrices are written in `dtype`, vectors and positions in float32. Of a file with 4 or 5 bits, embeddings and output
    have 8; rows that blocks of 32 values do not fit into are float16.

    Args:
        whole: The model.
        out: The file, which must not exist.
        dtype: One of `DTYPES`.
        ui: Where progress is shown.

    Returns:
        `out`, `to`, `architecture`, `dtype`, `bytes`, `tensors` and `warnings`.

    Raises:
        ConfigError: The dtype or the file's name is not usable.
        ModelError: The tokenizer cannot be written, or a tensor has no place.
        AdapterError: A value does not fit the dtype.
        OutputError: The file exists or cannot be written.
    """
    from gguf import GGUFWriter, LlamaFileType

    ui = ui or UI(quiet=True)
    require_gguf(out, dtype, DTYPES)
    machine.quiet_libraries()
    tokenizer = load_tokenizer(whole.source)
    placed = _placed(whole)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out) as temporary:
        writer = GGUFWriter(temporary, whole.architecture.name)
        try:
            writer.add_name(whole.name)
            writer.add_file_type(LlamaFileType[DTYPES[dtype][1]])
            writer.add_quantization_version(2)  # that of ggml's blocks
            if whole.fingerprint:
                writer.add_string("peftkit.base_fingerprint", whole.fingerprint)
            write_settings(writer, whole.architecture)
            warnings = write_tokenizer(writer, tokenizer, whole.architecture.settings.vocab_size)
            for text in (*whole.notes, *warnings):
                ui.warn(text)
            _write_tensors(writer, whole, placed, dtype, ui)
        finally:
            writer.close()
    report: dict[str, Any] = {
        "out": str(out),
        "to": "gguf",
        "architecture": whole.architecture.name,
        "dtype": dtype,
        "bytes": out.stat().st_size,
        "tensors": len(placed),
        "warnings": [*whole.notes, *warnings],
    }
    return report


def say_gguf(report: dict[str, Any], ui: UI) -> None:
    """Say what was written."""
    what = f"{report['architecture']}, {report['dtype']}, {report['tensors']} tensors"
    ui.say(f"{report['out']}: {what}; {size(report['bytes'])}")


def require_gguf(out: Path, dtype: str, dtypes: Iterable[str]) -> None:
    """Refuse a dtype that is none of those, or a file that cannot be written.

    Raises:
        ConfigError: The dtype is not known, or the name does not end as a GGUF file's does.
        OutputError: The file exists.
    """
    require_dtype(dtype, dtypes)
    if out.suffix != ".gguf":
        raise ConfigError(f"'{out}' does not end in .gguf, by which programs know such a file; add it")
    require_new(out)


def require_dtype(dtype: str, dtypes: Iterable[str] = DTYPES) -> None:
    """Refuse a dtype that is none of those.

    Raises:
        ConfigError: It is none.
    """
    if dtype not in dtypes:
        raise ConfigError(f"--dtype {dtype} is not one of {', '.join(dtypes)}")


def _placed(whole: Whole) -> dict[str, Output]:
    """Return the tensors by llama.cpp's names, in the order of the base's files."""
    placed: dict[str, Output] = {}
    for one in whole.outputs:
        if not one.parameter or (one.parameter == "lm_head.weight" and whole.architecture.tied):
            continue  # a buffer that transformers does not read either, or the embeddings once more
        name = whole.architecture.tensor_name(one.parameter)
        if name is None:
            raise ModelError(f"llama.cpp has no name for '{one.parameter}' of a {whole.architecture.name} model")
        placed[name] = one
    return placed


def _kind(name: str, one: Output, shape: Sequence[int], dtype: str) -> str:
    """Return gguf's name of the type that a tensor is written in."""
    if len(shape) == 1 or name in _ALWAYS_FLOAT:
        return "F32"
    asked = "q8_0" if dtype in _FEW_BITS and name in _SENSITIVE else dtype
    blocks = asked.startswith("q")
    return "F16" if blocks and shape[-1] % 32 else DTYPES[asked][0]


def _write_tensors(writer: Any, whole: Whole, placed: dict[str, Output], dtype: str, ui: UI) -> None:
    import numpy as np
    from gguf import GGMLQuantizationType, quant_shape_to_byte_shape, quantize

    kinds: dict[str, Any] = {}
    total = 0
    factors = rope_factors(whole.architecture.settings)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, np.dtype(np.float32), factors.numel() * 4)
    for name, one in placed.items():
        shape = one.shape[::-1] if whole.architecture.transposed(one.parameter) else one.shape
        kind = kinds[name] = GGMLQuantizationType[_kind(name, one, shape, dtype)]
        count = int(np.prod(quant_shape_to_byte_shape(shape, kind)))
        writer.add_tensor_info(name, shape, np.dtype(np.float32), count, raw_dtype=kind)
        total += count
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    (stream,) = writer.fout
    writer.write_padding(stream, stream.tell())
    if factors is not None:
        stream.write(factors.numpy().tobytes())
        writer.write_padding(stream, factors.numel() * 4)
    done = 0
    with ui.progress("MB written", -(-total // _MB)) as bar:
        for name, one in placed.items():
            written = 0
            for rows in _rows(one, whole):
                values = rows.numpy() if len(one.shape) > 1 else rows.numpy().reshape(-1)
                block = quantize(values, kinds[name])
                if kinds[name] == GGMLQuantizationType.F16 and not np.isfinite(block).all():
                    raise AdapterError(f"'{one.parameter}' has values that float16 does not reach; take --dtype bf16")
                written += stream.write(np.ascontiguousarray(block).tobytes())
                bar.to((done + written) // _MB)
            writer.write_padding(stream, written)
            done += written
        bar.to(-(-total // _MB))


def _rows(one: Output, whole: Whole) -> Iterator[torch.Tensor]:
    """Give a tensor's rows as they are written, a block at a time, in float32."""
    import torch

    blocks = (wanted.float() for _, wanted in merged_rows(one, whole.trained))
    ordered = bool(whole.architecture.heads(one.parameter))
    transposed = whole.architecture.transposed(one.parameter)
    if not ordered and not transposed:
        yield from blocks
        return
    matrix = torch.cat([block.clone() for block in blocks])  # the next block is computed in the memory of this one
    matrix = matrix.T.contiguous() if transposed else whole.architecture.ordered(one.parameter, matrix)
    yield from torch.split(matrix, max(1, BLOCK_VALUES // matrix.shape[1]))
