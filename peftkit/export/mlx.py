"""An adapter as MLX-LM's own: `adapters.safetensors` with transposed factors, and its `adapter_config.json`.

MLX-LM has one rank and one scale for all modules, so the portable form is written. Modules are named in full, so that
those without a change stay as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peftkit import machine
from peftkit.errors import AdapterError, ConfigError, ModelError
from peftkit.export.base import base_of
from peftkit.export.portable import fold_all
from peftkit.merge.lora_file import LoraFile, read_lora
from peftkit.model.load import Source
from peftkit.rundir import atomic_folder, require_new, write_json
from peftkit.ui import UI, size

WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"
DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
"""torch's name of the dtype for each of ours."""
_SAME_NAMES = ("llama", "mistral", "qwen2", "qwen3")
"""Kinds of models whose modules MLX-LM names as transformers does."""
_READS_ROPE_PARAMETERS = ("qwen3",)
_THETA = {"llama": 10_000.0, "mistral": 10_000.0, "qwen2": 1_000_000.0}
"""What MLX-LM takes where `config.json` has no `rope_theta`."""


def export_mlx(
    adapter: Path, out: Path, *, base: str | None = None, dtype: str = "f32", ui: UI | None = None
) -> dict[str, Any]:
    """Write an adapter for MLX-LM (`mlx_lm.generate --adapter-path`).

    Args:
        adapter: Folder of the adapter, or of the run that wrote it.
        out: Folder to write, which must not exist.
        base: The base model, as for `model.path`, of which the configuration is read; None takes the one that the
            adapter names.
        dtype: One of `DTYPES`.
        ui: Where warnings and the result are said.

    Returns:
        `out`, `to`, `dtype`, `rank`, `modules`, `bytes` and `warnings`.

    Raises:
        ConfigError: The dtype is none that is written.
        AdapterError: MLX-LM cannot take the adapter.
        ModelError: The base model is of a kind whose modules have other names there, or cannot be found.
        OutputError: The folder exists or cannot be written.
    """
    import torch
    from safetensors.torch import save_file

    ui = ui or UI(quiet=True)
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype} is not one of {', '.join(DTYPES)}")
    require_new(out)
    machine.quiet_libraries()
    file = read_lora(adapter)
    source, settings = base_of(file, base)
    _require_taken(file, settings)
    warnings = [*file.warnings, *_rope_caution(source, settings)]
    for text in warnings:
        ui.warn(text)
    changes = fold_all(file)
    kept = getattr(torch, DTYPES[dtype])
    state = {}
    for name, change in changes.items():
        state[f"{name}.lora_a"] = change.factors.a.T.to(kept).contiguous()
        state[f"{name}.lora_b"] = change.factors.b.T.to(kept).contiguous()
    rank = next(iter(changes.values())).factors.rank
    with atomic_folder(out) as folder:
        save_file(state, folder / WEIGHTS, metadata={"format": "mlx"})
        (folder / WEIGHTS).chmod(0o644)  # safetensors writes 0600
        parameters = {"rank": rank, "scale": 1.0, "dropout": 0.0, "keys": sorted(changes)}
        write_json(
            folder / CONFIG,
            {"fine_tune_type": "lora", "num_layers": settings.num_hidden_layers, "lora_parameters": parameters},
        )
    report: dict[str, Any] = {
        "out": str(out),
        "to": "mlx",
        "dtype": dtype,
        "rank": rank,
        "modules": len(changes),
        "bytes": (out / WEIGHTS).stat().st_size,
        "warnings": warnings,
    }
    ui.say(f"{out}: {len(changes)} modules for MLX-LM, rank {rank}, {dtype}; {size(report['bytes'])}")
    return report


def _require_taken(file: LoraFile, settings: Any) -> None:
    if settings.model_type not in _SAME_NAMES:
        raise ModelError(
            f"MLX-LM may name the modules of {settings.model_type} models otherwise, and only {', '.join(_SAME_NAMES)} "
            "are written; merge the adapter with `peftkit merge` and load that"
        )
    advice = "merge it with `peftkit merge` and load that"
    if file.whole:
        raise AdapterError(
            f"the adapter in '{file.folder}' holds '{min(file.whole)}' as a whole, which MLX-LM does not take; {advice}"
        )
    tied = [name for name, one in file.changes.items() if one.embedding or name.endswith("lm_head")]
    if tied:
        raise AdapterError(
            f"the adapter in '{file.folder}' changes '{tied[0]}', where MLX-LM may change embeddings and output at "
            f"once; {advice}"
        )


def _rope_caution(source: Source, settings: Any) -> list[str]:
    """Warn where MLX-LM would take another base of the rotation than the model has."""
    kind = settings.model_type
    theta = (getattr(settings, "rope_parameters", None) or {}).get("rope_theta")
    if kind in _READS_ROPE_PARAMETERS or theta is None or theta == _THETA.get(kind):
        return []
    from transformers import PretrainedConfig

    written, _ = PretrainedConfig.get_config_dict(source.path, revision=source.revision)
    if "rope_theta" in written:
        return []
    return [
        f"MLX-LM reads rope_theta at the top of a config.json, and takes {_THETA[kind]:g} where it is not; write "
        f"\"rope_theta\": {theta:g} into that of '{source.path}'"
    ]
