"""What an adapter does to each parameter of a model, asked of PEFT itself.

PEFT attaches the adapter to the model on the meta device, so that its own rules (patterns of ranks and scales, layers
that are left out, fused experts, tied embeddings) say which layers it changes, and how much.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from peftkit.adapter.attach import require_same
from peftkit.errors import AdapterError, first_line
from peftkit.merge.changes import Added, Change, Experts, LowRank, Replaced
from peftkit.merge.inputs import Given

if TYPE_CHECKING:
    import torch

_PREFIX = "base_model.model."
_REPEATABLE = ("pissa", "olora")
"""Starts that change the base's weights, and that PEFT can do again when it loads an adapter."""
_ONCE = ("pissa", "corda", "lora_ga", "loftq")
"""Starts that change the base's weights by chance or by data."""


class NotStreamable(Exception):
    """The change is none that can be computed row by row; PEFT itself has to merge it."""


def changes_of(adapter: Given, model: Any) -> dict[str, list[Change | Experts]]:
    """Say what an adapter does to each parameter of a model.

    Args:
        adapter: The adapter.
        model: The base model on the meta device; it is changed.

    Raises:
        AdapterError: A tensor has no place or a place has no tensor, or no weights can hold what the adapter does.
        NotStreamable: The adapter is of a kind that is not computed row by row here.
    """
    _require_lora(adapter)
    adapted, own = _fitted(adapter, model)
    state = dict(adapter.state)
    found: dict[str, list[Change | Experts]] = defaultdict(list)
    for key, name in own.items():
        found[name].append(Replaced(_matrix(state.pop(key))))
    for name, change in _of_layers(adapter, adapted.base_model.model, state):
        found[name].append(change)
    for key in [key for key in state if key.endswith(".bias")]:  # trained with the setting `bias`
        found[_clean(key.removeprefix(_PREFIX))].append(Replaced(_matrix(state.pop(key))))
    if state:
        raise NotStreamable(f"'{min(state)}'")
    return dict(found)


def require_fits(adapter: Given, model: Any) -> dict[str, str]:
    """Check that every tensor of an adapter has its place in a model, and every place its tensor.

    Args:
        adapter: The adapter, of any method.
        model: The base model on the meta device; it is changed.

    Returns:
        Weights of the base that the adapter brings besides: their names in its file, and in the base.

    Raises:
        AdapterError: A tensor has no place, a place has no tensor, or a shape differs.
    """
    return _fitted(adapter, model)[1]


def _fitted(adapter: Given, model: Any) -> tuple[Any, dict[str, str]]:
    known = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    adapted, expected = _attached(adapter, model)
    own = {}
    for key in sorted(adapter.state.keys() - expected.keys()):  # embeddings that PEFT saves beside an adapter of them
        name = _clean(key.removeprefix(_PREFIX))
        if known.get(name) == tuple(adapter.state[key].shape):
            own[key] = name
    rest = {key: value for key, value in adapter.state.items() if key not in own}
    require_same(rest, expected, adapter.folder)
    return adapted, own


def _require_lora(adapter: Given) -> None:
    settings = adapter.settings
    kind = settings.peft_type.value
    if settings.is_prompt_learning:
        raise AdapterError(
            f"the adapter in '{adapter.folder}' is of the kind {kind}, which changes no weights; use it beside its base"
        )
    if kind != "LORA":
        raise NotStreamable(f"an adapter of the kind {kind}")
    if settings.layer_replication:
        raise AdapterError(
            f"the adapter in '{adapter.folder}' repeats layers of its base (layer_replication), which the base's files "
            "cannot hold; use it beside its base"
        )
    start = str(settings.init_lora_weights).lower()
    if start in _REPEATABLE:
        raise NotStreamable(f"LoRA that was started as {start}")
    if start.startswith(_ONCE):
        raise AdapterError(
            f"the adapter in '{adapter.folder}' was started as {start}, which changed its base in a way that cannot be "
            "done again; save it as plain LoRA first, with PEFT's path_initial_model_for_weight_conversion"
        )


def _attached(adapter: Given, model: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Let PEFT attach the adapter; return the model, and the tensors that the adapter must have."""
    import torch
    from peft import get_peft_model, get_peft_model_state_dict

    settings = copy.copy(adapter.settings)
    settings.init_lora_weights = False  # nothing can be computed from weights that are not there
    try:
        with torch.device("meta"):
            adapted = get_peft_model(model, settings)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, NotImplementedError) as error:
        raise AdapterError(
            f"the adapter in '{adapter.folder}' does not fit the base model: {first_line(error)}"
        ) from error
    return adapted, get_peft_model_state_dict(adapted, save_embedding_layers=False)


def _of_layers(adapter: Given, model: Any, state: dict[str, torch.Tensor]) -> Iterator[tuple[str, Change | Experts]]:
    """Say what each layer that PEFT changed does to its parameters; what is used is taken out of `state`."""
    import torch
    from peft.tuners.lora import LoraLayer
    from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper

    tokens: dict[int, Replaced] = {}
    for path, module in model.named_modules():
        key = f"{_PREFIX}{path}"
        if isinstance(module, LoraLayer):
            yield from _of_lora(adapter, module, path, state)
        elif isinstance(module, ModulesToSaveWrapper):
            for name in module.modules_to_save["default"].state_dict():
                yield f"{path}.{name}", Replaced(_matrix(state.pop(f"{key}.{name}")))
        elif isinstance(module, TrainableTokensWrapper):
            layer = module.token_adapter
            if layer.tied_adapter is None:
                rows, order = torch.tensor(layer.token_indices["default"]).sort()
                tokens[id(layer)] = Replaced(state.pop(f"{key}.token_adapter.trainable_tokens_delta")[order], rows)
            yield f"{path}.weight", tokens[id(layer.tied_adapter or layer)]


def _of_lora(
    adapter: Given, layer: Any, path: str, state: dict[str, torch.Tensor]
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
    magnitude = state.pop(f"{key}.lora_magnitude_vector").float() if variant is not None else None
    if isinstance(layer, kinds.Embedding):
        a, b = (state.pop(f"{key}.lora_embedding_{part}").float() for part in "AB")
        yield f"{own}.weight", LowRank(a, b, scale, transposed=True, rounded=magnitude is None, magnitude=magnitude)
        return
    a, b = (state.pop(f"{key}.lora_{part}.weight").float() for part in "AB")
    if isinstance(layer, kinds.ParamWrapper):
        experts = layer.num_experts
        stacked = Experts.of(a, b, scale, experts, transposed=not layer._did_swap_in_out_features)
        yield f"{own}.{layer.parameter_name}", stacked if experts > 1 else LowRank(a, b, scale, rounded=True)
        return
    yield f"{own}.weight", LowRank(a, b, scale, transposed=bool(layer.fan_in_fan_out), magnitude=magnitude)
    if layer.lora_bias["default"]:
        yield f"{own}.bias", Added(_matrix(state.pop(f"{key}.lora_B.bias").float()) * scale)


def _clean(path: str) -> str:
    return path.replace(".base_layer", "")


def _matrix(values: torch.Tensor) -> torch.Tensor:
    """See a tensor as rows: a vector has one column, and of more than two dimensions the last one is a row."""
    return values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)
