"""Where each parameter of a model stands in its files.

transformers renames tensors while it loads them, and fuses the experts of a mixture into one parameter, so a parameter
can be a stored tensor under another name, or rows of several. transformers' own table of conversions says which; the
model itself is built on the meta device, without weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftkit.errors import ModelError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from peftkit.model.weight_files import StoredTensor


@dataclass(frozen=True, slots=True)
class Place:
    """A stored tensor's part of a parameter.

    Attributes:
        tensor: The stored tensor.
        expert: Which matrix of a three-dimensional parameter it is part of; None where it is the whole parameter.
        first: Its first row in that matrix.
    """

    tensor: StoredTensor
    expert: int | None = None
    first: int = 0


@dataclass(frozen=True)
class Places:
    """Where a model's parameters stand.

    Attributes:
        of: Stored parts of each parameter and buffer, by name; an empty list where it is stored in a form that cannot
            be taken apart row by row.
        tied: Parameters that share their values with a stored one, each with that one's name; some files hold them too.
        unused: Names of stored tensors that the model has no place for.
    """

    of: Mapping[str, Sequence[Place]]
    tied: Mapping[str, str]
    unused: frozenset[str]


def meta_model(model_class: Any, settings: Any) -> PreTrainedModel:
    """Build a model without weights.

    Args:
        model_class: One of transformers' classes with `from_config`, or a class of models.
        settings: The model's configuration.

    Raises:
        ModelError: transformers cannot build it.
    """
    import torch

    build = getattr(model_class, "from_config", None) or model_class._from_config
    try:
        with torch.device("meta"):
            model: PreTrainedModel = build(settings)
    except (ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ModelError(f"transformers cannot build a {settings.model_type} model: {first_line(error)}") from error
    return model


def find_places(model: PreTrainedModel, stored: Sequence[StoredTensor]) -> Places:
    """Find where each parameter of a model stands, as transformers' `from_pretrained` would.

    Args:
        model: The model on the meta device.
        stored: All tensors of its files.

    Raises:
        ModelError: A tensor has another shape than the parameter that it stands for.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, dot_natural_key, rename_source_key

    wanted = model.state_dict()
    conversions = get_model_conversion_mapping(model)
    converters = [one for one in conversions if isinstance(one, WeightConverter)]
    renamings = [one for one in conversions if not isinstance(one, WeightConverter)]
    converter_of = {pattern: one for one in converters for pattern in one.source_patterns}
    prefix = model.base_model_prefix
    of: dict[str, list[Place]] = {}
    fused: dict[str, dict[str, list[StoredTensor]]] = defaultdict(lambda: defaultdict(list))
    unused = set()
    for tensor in sorted(stored, key=lambda one: dot_natural_key(one.name)):
        name, pattern = rename_source_key(tensor.name, renamings, converters, prefix, wanted)
        if name not in wanted and tensor.name in wanted:
            name, pattern = rename_source_key(tensor.name, [], [], prefix, wanted)
        if name not in wanted:
            unused.add(tensor.name)
        elif pattern is not None:
            fused[name][pattern].append(tensor)
        else:
            of[name] = [Place(tensor)]
    for name, parts in fused.items():
        of[name] = _taken_apart(converter_of[next(iter(parts))], parts, tuple(wanted[name].shape))
    for name, places in of.items():
        whole = [place for place in places if place.expert is None]
        if whole and whole[0].tensor.shape != tuple(wanted[name].shape):
            raise ModelError(
                f"'{whole[0].tensor.name}' in '{whole[0].tensor.file}' has the shape {list(whole[0].tensor.shape)}, "
                f"and the model's '{name}' {list(wanted[name].shape)}; config.json and weights do not belong together"
            )
    return Places(of, _tied(model, of), frozenset(unused))


def _taken_apart(converter: Any, parts: Mapping[str, Sequence[StoredTensor]], shape: tuple[int, ...]) -> list[Place]:
    """Say which rows of a fused parameter each stored tensor is; nothing where it is not fused row by row.

    Args:
        converter: transformers' conversion.
        parts: The stored tensors by source pattern, each list in the order of experts.
        shape: Shape of the parameter.
    """
    from transformers.core_model_loading import Concatenate, MergeModulelist

    steps = converter.operations
    stacked = len(shape) == 3 and steps and isinstance(steps[0], MergeModulelist) and steps[0].dim == 0
    joined = len(steps) == 1 or (len(steps) == 2 and isinstance(steps[1], Concatenate) and steps[1].dim == 1)
    if not stacked or not joined or len(converter.target_patterns) != 1:
        return []
    places: list[Place] = []
    first = 0
    for pattern in converter.source_patterns:
        tensors = parts.get(pattern, ())
        if len(tensors) != shape[0] or any(len(one.shape) != 2 or one.shape[1] != shape[2] for one in tensors):
            return []
        places += [Place(tensor, expert, first) for expert, tensor in enumerate(tensors)]
        first += tensors[0].shape[0]
    return places if first == shape[1] else []


def _tied(model: PreTrainedModel, of: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters that share a stored one's values, with that one's name."""
    stored_as: dict[int, str] = {}
    names = list(model.named_parameters(remove_duplicate=False))
    for name, parameter in names:
        if name in of:
            stored_as.setdefault(id(parameter), name)
    return {
        name: stored_as[id(parameter)]
        for name, parameter in names
        if id(parameter) in stored_as and stored_as[id(parameter)] != name
    }
