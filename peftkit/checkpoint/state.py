"""All that a training needs to go on: what is saved of a trainer, and how it is put back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.checkpoint.folders import read_values
from peftkit.checkpoint.optimizer_state import optimizer_state, set_optimizer_state
from peftkit.checkpoint.random_state import set_random_state
from peftkit.checkpoint.tensor_file import write_tensors
from peftkit.errors import CheckpointError, ModelError
from peftkit.model.weight_files import read_tensors
from peftkit.rundir import write_json

if TYPE_CHECKING:
    import torch

    from peftkit.checkpoint.random_state import Tensors

TENSORS = "state.safetensors"
VALUES = "state.json"


@dataclass(frozen=True)
class State:
    """Tensors and plain values in parts: `weights`, `optimizer`, `random`, `epoch_random`, `loop` and others.

    Attributes:
        tensors: By `PART/NAME`.
        values: By part.
    """

    tensors: Tensors
    values: dict[str, Any]

    @classmethod
    def of(cls, parts: Mapping[str, tuple[Tensors, Any]]) -> State:
        """Make a state of its parts."""
        tensors = {f"{part}/{name}": one for part, (held, _) in parts.items() for name, one in held.items()}
        return cls(tensors, {part: values for part, (_, values) in parts.items()})

    @classmethod
    def read(cls, folder: Path) -> State:
        """Read what `write` left.

        Raises:
            CheckpointError: A file is absent or damaged.
        """
        try:
            return cls(read_tensors(folder / TENSORS), read_values(folder / VALUES))
        except (OSError, ModelError) as error:
            raise CheckpointError(f"the checkpoint '{folder}' cannot be read: {error}; give another one") from error

    def write(self, folder: Path) -> dict[str, str]:
        """Write both files, and return the sha256 of the tensors'."""
        write_json(folder / VALUES, self.values)
        return {TENSORS: write_tensors(folder / TENSORS, self.tensors)}

    def part(self, name: str) -> tuple[Tensors, Any]:
        """Return the tensors and values of a part.

        Raises:
            CheckpointError: There is none.
        """
        if name not in self.values:
            raise CheckpointError(f"the checkpoint lacks '{name}', which a run needs to go on")
        prefix = f"{name}/"
        held = {key.removeprefix(prefix): one for key, one in self.tensors.items() if key.startswith(prefix)}
        return held, self.values[name]


def trained_weights(model: torch.nn.Module, optimizer: Any = None) -> dict[str, torch.nn.Parameter]:
    """Return the parameters that a training changes or goes by: those that are trained, and all of the optimizer's."""
    known: Iterable[dict[str, Any]] = optimizer.param_groups if optimizer is not None else ()
    optimized = {id(one) for group in known for one in group["params"]}
    return {name: one for name, one in model.named_parameters() if one.requires_grad or id(one) in optimized}


def set_weights(model: torch.nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    """Put saved weights in place; each must have its place, and each trained one must be there.

    Raises:
        CheckpointError: One is missing, is left over, or has another shape or dtype.
    """
    places = dict(model.named_parameters())
    for name in trained_weights(model).keys() | saved.keys():
        if name not in saved or name not in places:
            raise CheckpointError(f"the checkpoint does not fit the adapter: '{name}' stands in one of them only")
        if (saved[name].shape, saved[name].dtype) != (places[name].shape, places[name].dtype):
            raise CheckpointError(f"the checkpoint does not fit the adapter: '{name}' has another shape or dtype")
    for name, value in saved.items():
        places[name].data.copy_(value)


def optimizer_part(model: torch.nn.Module, optimizer: Any) -> tuple[Tensors, dict[str, Any]]:
    """Return the state of a trainer's optimizer, as `optimizer_state` does; accelerate's wrapper holds no own."""
    return optimizer_state(optimizer.optimizer, _names(model))


def set_optimizer(model: torch.nn.Module, optimizer: Any, part: tuple[Tensors, dict[str, Any]]) -> None:
    """Put it back, strictly."""
    set_optimizer_state(optimizer.optimizer, _names(model), *part)


def set_random(part: tuple[Tensors, dict[str, Any]]) -> None:
    """Put all generators of random numbers where they were.

    Raises:
        CheckpointError: The state of one is missing.
    """
    try:
        set_random_state(*part)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint lacks the state of a generator of random numbers: {error}") from error


def _names(model: torch.nn.Module) -> dict[torch.Tensor, str]:
    return {one: name for name, one in model.named_parameters()}
