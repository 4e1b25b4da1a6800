"""What an adapter does to each parameter of a model, asked of PEFT itself.

PEFT attaches the adapter to the model on the meta device, so that its own rules (patterns of ranks and scales, layers
that are left out, fused experts, tied embeddings) say which layers it changes, and how much.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from peftkit.adapter.attach import require_same
from peftkit.errors import AdapterError, first_line
from peftkit.merge.changes import Added, Change, Experts, LowRank, Replaced
from peftkit.merge.inputs import Given

if TYPE_CHECKING:
    import torch

_PREFIX = "base_model.model."


class NotStreamable(Exception):
    """The change is none that can be computed row by row; PEFT itself has to merge it."""


def changes_of(adapter: Given, model: Any) -> dict[str, list[Change | Experts]]:
    """Say what an adapter does to each parameter of a model.

    Args:
        adapter: The adapter.
        model: The base model on the meta device; it is changed.

    Raises:
        AdapterError: A tensor has no place or a place has no tensor, or the adapter is of a kind that cannot be merged
            tensor by tensor.
    """
    import torch
    from peft import get_peft_model, get_peft_model_state_dict
    from peft.tuners.lora import LoraLayer
    from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper

    settings = adapter.settings
    known = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state = dict(adapter.state)
    settings.init_lora_weights = False  # nothing is computed from weights that are not there
    try:
        with torch.device("meta"):
            adapted = get_peft_model(model, settings)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, NotImplementedError) as error:
        raise AdapterError(
            f"the adapter in '{adapter.folder}' does not fit the base model: {first_line(error)}"
        ) from error
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    found: dict[str, list[Change | Experts]] = defaultdict(list)
    for key in sorted(state.keys() - expected.keys()):  # embeddings that PEFT saves beside an adapter of them
        name = _clean(key.removeprefix(_PREFIX))
        if known.get(name) == tuple(state[key].shape):
            found[name].append(Replaced(_matrix(state.pop(key))))
    require_same(state, expected, adapter.folder)
    for path, module in adapted.base_model.model.named_modules():
        key = f"{_PREFIX}{path}"
        if isinstance(module, LoraLayer):
            for name, change in _of_lora(adapter, module, path, state):
                found[name].append(change)
        elif isinstance(module, ModulesToSaveWrapper):
            for name in module.modules_to_save["default"].state_dict():
                found[f"{path}.{name}"].append(Replaced(_matrix(state[f"{key}.{name}"])))
        elif isinstance(module, TrainableTokensWrapper):
            tied = module.token_adapter.tied_adapter
            owner = path if tied is None else next(n for n, m in adapted.base_model.model.named_modules() if m is tied)
            values = state[f"{_PREFIX}{owner}{'.token_adapter' if tied is None else ''}.trainable_tokens_delta"]
            rows, order = torch.tensor(module.token_adapter.token_indices["default"]).sort()
            found[f"{path}.weight"].append(Replaced(values[order], rows))
    for key, value in state.items():
        if key.endswith(".bias") and not key.endswith(".lora_B.bias"):
            name = _clean(key.removeprefix(_PREFIX))
            if name in known and not any(isinstance(one, Replaced) for one in found[name]):
                found[name].append(Replaced(_matrix(value)))
    return dict(found)


def _of_lora(
    adapter: Given, layer: Any, path: str, state: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, Change | Experts]]:
    """Say what one LoRA layer does: to its weight, and to its bias."""
    from peft.tuners.lora import layer as kinds
    from peft.tuners.lora.variants import DoraEmbeddingVariant, DoraLinearVariant

    key, own = f"{_PREFIX}{path}", _clean(path)
    scale = float(layer.scaling["default"]) * adapter.weight
    variant = layer.lora_variant.get("default")
    plain = variant is None or isinstance(variant, DoraLinearVariant | DoraEmbeddingVariant)
    if not plain or type(layer) not in (kinds.Linear, kinds.Embedding, kinds.ParamWrapper):
        raise NotStreamable(f"PEFT's {type(variant if not plain else layer).__name__} in '{own}'")
    magnitude = state.get(f"{key}.lora_magnitude_vector")
    magnitude = None if magnitude is None else magnitude.float()
    if isinstance(layer, kinds.Embedding):
        a, b = (state[f"{key}.lora_embedding_{part}"].float() for part in "AB")
        yield f"{own}.weight", LowRank(a, b, scale, transposed=True, rounded=magnitude is None, magnitude=magnitude)
        return
    a, b = (state[f"{key}.lora_{part}.weight"].float() for part in "AB")
    if isinstance(layer, kinds.ParamWrapper):
        transposed = layer.num_experts > 1 and not layer._did_swap_in_out_features
        yield (
            f"{own}.{layer.parameter_name}",
            LowRank(a, b, scale)
            if layer.num_experts == 1
            else Experts.of(a, b, scale, layer.num_experts, transposed=transposed),
        )
        return
    yield f"{own}.weight", LowRank(a, b, scale, transposed=bool(layer.fan_in_fan_out), magnitude=magnitude)
    bias = state.get(f"{key}.lora_B.bias")
    if bias is not None:
        yield f"{own}.bias", Added(_matrix(bias.float()) * scale)


def _clean(path: str) -> str:
    return path.replace(".base_layer", "")


def _matrix(values: torch.Tensor) -> torch.Tensor:
    """See a tensor as rows: a vector has one column, and of more than two dimensions the last one is a row."""
    return values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)
