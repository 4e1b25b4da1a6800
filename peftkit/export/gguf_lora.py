"""An adapter as a GGUF file that llama.cpp adds to a base model's GGUF file of any type.

llama.cpp multiplies by alpha / r with one alpha and each module's own r, and knows neither rsLoRA nor patterns; so each
scale is folded into B such that this gives it back. Rows of B stand in the order of the base's rows there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peftkit import machine
from peftkit.errors import AdapterError
from peftkit.export.base import base_of
from peftkit.export.gguf_arch import Architecture, architecture_of
from peftkit.export.gguf_model import require_gguf
from peftkit.merge.lora_file import Change, LoraFile, read_lora
from peftkit.rundir import atomic
from peftkit.ui import UI, size

DTYPES = {"f32": ("F32", "ALL_F32"), "f16": ("F16", "MOSTLY_F16"), "bf16": ("BF16", "MOSTLY_BF16")}
"""gguf's names of the type of a tensor and of a whole file for each of ours."""


def export_gguf_lora(
    adapter: Path, out: Path, *, base: str | None = None, dtype: str = "f32", ui: UI | None = None
) -> dict[str, Any]:
    """Write an adapter as GGUF.

    Args:
        adapter: Folder of the adapter, or of the run that wrote it.
        out: The file, which must not exist.
        base: The base model, as for `model.path`, of which the configuration is read; None takes the one that the
            adapter names.
        dtype: One of `DTYPES`.
        ui: Where warnings and the result are said.

    Returns:
        `out`, `to`, `architecture`, `dtype`, `alpha`, `modules`, `bytes` and `warnings`.

    Raises:
        ConfigError: The dtype or the file's name is not usable.
        AdapterError: llama.cpp cannot take the adapter.
        ModelError: The base model is of an architecture that is not written, or cannot be found.
        OutputError: The file exists or cannot be written.
    """
    from gguf import GGMLQuantizationType, GGUFType, GGUFWriter, LlamaFileType, quantize

    ui = ui or UI(quiet=True)
    require_gguf(out, dtype, DTYPES)
    machine.quiet_libraries()
    file = read_lora(adapter)
    for text in file.warnings:
        ui.warn(text)
    architecture = architecture_of(base_of(file, base)[1])
    names = {module: _tensor_name(file, module, architecture) for module in file.changes}
    alpha = max(change.factors.rank for change in file.changes.values())
    kind = GGMLQuantizationType[DTYPES[dtype][0]]
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out) as temporary:
        writer = GGUFWriter(temporary, architecture.name)
        try:
            writer.add_type(GGUFType.ADAPTER)
            writer.add_string("adapter.type", "lora")
            writer.add_float32("adapter.lora.alpha", float(alpha))
            writer.add_file_type(LlamaFileType[DTYPES[dtype][1]])
            if file.passport is not None:
                writer.add_string("peftkit.base_fingerprint", file.passport.base.fingerprint)
            for module, change in file.changes.items():
                for side, values in zip("ab", _factors(module, change, alpha, architecture), strict=True):
                    rounded = quantize(values.numpy(), kind)
                    writer.add_tensor(f"{names[module]}.lora_{side}", rounded, raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
    report: dict[str, Any] = {
        "out": str(out),
        "to": "gguf-lora",
        "architecture": architecture.name,
        "dtype": dtype,
        "alpha": alpha,
        "modules": len(file.changes),
        "bytes": out.stat().st_size,
        "warnings": list(file.warnings),
    }
    ui.say(f"{out}: LoRA for {architecture.name}, {len(file.changes)} modules, {dtype}; {size(report['bytes'])}")
    return report


def _factors(module: str, change: Change, alpha: int, architecture: Architecture) -> tuple[Any, Any]:
    """Return A and B, float32, such that alpha / r B A is the change."""
    b = (change.scaled.b * (change.factors.rank / alpha)).float()
    return change.factors.a.contiguous(), architecture.ordered(module, b).contiguous()


def _tensor_name(file: LoraFile, module: str, architecture: Architecture) -> str:
    """Return llama.cpp's name of a module's weight.

    Raises:
        AdapterError: llama.cpp has none, or takes no LoRA there.
    """
    advice = "merge it instead: `peftkit export --to gguf` writes base and adapter as one model"
    if file.whole:
        raise AdapterError(
            f"the adapter in '{file.folder}' holds '{min(file.whole)}' as a whole, and llama.cpp takes factors of LoRA "
            f"alone; {advice}"
        )
    if file.changes[module].embedding:
        raise AdapterError(
            f"the adapter in '{file.folder}' changes the embedding '{module}', which is not written as GGUF; {advice}"
        )
    if module.endswith("lm_head") and architecture.tied:
        raise AdapterError(
            f"the adapter in '{file.folder}' changes '{module}', whose weight is also that of the embeddings, so "
            f"llama.cpp would change both; {advice}"
        )
    name = architecture.tensor_name(module)
    if name is None:
        raise AdapterError(
            f"the adapter in '{file.folder}' changes '{module}', for which llama.cpp has no name in a "
            f"{architecture.name} model; {advice}"
        )
    return f"{name}.weight"
