"""A merged model in 4 or 8 bits: merged into the original weights, and quantized once, as bitsandbytes stores it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.config import ModelConfig
from peftkit.errors import AdapterError, MissingDependencyError, first_line
from peftkit.merge.changes import Scratch
from peftkit.merge.held import Held, quantized_layers
from peftkit.merge.inputs import Inputs
from peftkit.merge.plan import Output, Plan
from peftkit.merge.rows import BLOCK_VALUES, Realised, merged_rows
from peftkit.merge.write import LOST
from peftkit.model.head import UNQUANTIZED
from peftkit.model.load import resolved_dtype
from peftkit.model.quantize import quantization_config
from peftkit.model.weight_files import INDEX

if TYPE_CHECKING:
    import torch

KINDS = ("nf4", "fp4", "int8")


def quantize_merged(inputs: Inputs, plan: Plan, folder: Path, kind: str) -> dict[str, float]:
    """Replace the weights of a merged model by quantized ones.

    Args:
        inputs: What was merged.
        plan: How it was merged, onto the original weights.
        folder: The merged model; its weights and `config.json` are written anew.
        kind: One of `KINDS`.

    Returns:
        For each quantized tensor that the adapter changes the share of that change which is there: what quantizing the
        merged weight gives against what quantizing the base's gives, along the change.

    Raises:
        MissingDependencyError: bitsandbytes cannot do it here.
    """
    import torch

    config = ModelConfig(path=str(folder), quantization=kind)
    dtype = resolved_dtype(config)
    head = inputs.family == "head"
    layers = quantized_layers(inputs.model_class, inputs.settings, config, dtype, head=head)
    kept = {
        one.name: share
        for one in plan.changed
        if one.parameter.removesuffix(".weight") in layers and (share := _share_kept(one, kind, dtype)) is not None
    }
    settings = quantization_config(config, dtype, UNQUANTIZED if head else None)
    arguments = {"device_map": {"": torch.cuda.current_device()}} if torch.cuda.is_available() else {}
    try:
        model = inputs.model_class.from_pretrained(folder, dtype=dtype, quantization_config=settings, **arguments)
    except ImportError as error:
        raise MissingDependencyError(f"--quantize {kind} does not work here: {first_line(error)}") from error
    for file in (*folder.glob("*.safetensors"), folder / INDEX):
        file.unlink(missing_ok=True)
    model.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
    return kept


def _share_kept(one: Output, kind: str, dtype: torch.dtype) -> float | None:
    """Return the share of a tensor's change that is there once base and merged weight are both quantized."""
    import torch

    blocks = [(before.clone(), wanted.clone()) for before, wanted in merged_rows(one, None)]
    before, wanted = (torch.cat(several) for several in zip(*blocks, strict=True))
    total = Realised()
    stored = one.source.torch_dtype if one.source else torch.float32
    base, merged = (_held(weight.to(stored), kind, dtype) for weight in (before, wanted))
    total.add(before, wanted, before + (merged - base), Scratch())
    return total.share


def _held(weight: torch.Tensor, kind: str, dtype: torch.dtype) -> torch.Tensor:
    rows, columns = weight.shape
    held = Held(lambda first, count: weight[first : first + count], (rows, columns), kind, dtype, BLOCK_VALUES)
    return held.rows(0, rows).float()


def require_kept(kept: Mapping[str, float], kind: str) -> None:
    """Refuse a model whose adapter the quantizing has taken away.

    Raises:
        AdapterError: Of the change of some tensor less than `LOST` is left.
    """
    lost = {name: share for name, share in kept.items() if share < LOST}
    if lost:
        name = min(lost, key=lost.__getitem__)
        raise AdapterError(
            f"quantizing to {kind} would take the adapter away: of the change of '{name}' {lost[name]:.0%} would be "
            f"left ({len(lost)} tensors of {len(kept)} keep less than {LOST:.0%}); keep base and adapter apart"
        )
