"""Two checkpoints of one architecture: which tensor is which module's, and the change of each, read one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from peftkit.errors import ModelError, first_line
from peftkit.model.fingerprint import weights_folder
from peftkit.model.load import Source, settings_of
from peftkit.model.quantize import stored_kind
from peftkit.model.weight_files import weight_files

if TYPE_CHECKING:
    import torch

Kind = Literal["linear", "conv1d", "embedding", "other"]


class Weights:
    """The tensors of a model's folder; headers are read at once, and a tensor when it is asked for.

    Raises:
        ModelError: The weights are not on this machine, are quantized, or a file is damaged.
    """

    def __init__(self, source: Source) -> None:
        self.path = source.path
        self.settings = settings_of(source)
        if (held := stored_kind(self.settings)) is not None:
            raise ModelError(f"the weights in '{source.path}' are stored as {held}; give a checkpoint of plain numbers")
        self._stored = {one.name: one for file in weight_files(weights_folder(source)) for one in file.tensors}
        self.shapes = {name: one.shape for name, one in self._stored.items()}

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor.

        Raises:
            ModelError: It holds no floating-point numbers.
        """
        one = self._stored[name]
        if not one.torch_dtype.is_floating_point:
            raise ModelError(f"'{name}' in '{self.path}' holds {one.dtype}; give a checkpoint of plain numbers")
        with one.file.open("rb") as stream:
            return one.read_rows(stream, 0, one.rows).reshape(one.shape)


@dataclass(frozen=True)
class Place:
    """A parameter of the model.

    Attributes:
        module: Name of its module.
        parameter: Its name in the module.
        tensor: The name that it has in the files.
        kind: What its module is, and thereby how the tensor lies; only weights of matrices have one of their own.
        tied: Whether it is the input or output side of one shared tensor.
    """

    module: str
    parameter: str
    tensor: str
    kind: Kind
    tied: bool


class TwoModels:
    """A base model and one that was tuned from it.

    Raises:
        ModelError: One cannot be read, or they have other tensors or shapes.
    """

    def __init__(self, base: Source, tuned: Source) -> None:
        self.base, self.tuned = Weights(base), Weights(tuned)
        self.model = _skeleton(self.base)
        self._require_same()

    @cached_property
    def places(self) -> list[Place]:
        """The parameters of the model that the files hold, by module."""
        sides = self._tied_sides()
        found = []
        for name in sorted(self.model.state_dict()):
            tensor = self._in_files(name) or (self._in_files(f"{sides[0]}.weight") if sides else None)
            module, _, parameter = name.rpartition(".")
            if tensor is None or (tensor != self._in_files(name) and module not in sides):
                continue
            is_matrix = parameter == "weight" and len(self.base.shapes[tensor]) == 2
            kind: Kind = _kind(self.model.get_submodule(module)) if is_matrix else "other"
            found.append(Place(module, parameter, tensor, kind, module in sides))
        return found

    @property
    def unplaced(self) -> list[str]:
        """Tensors that both files hold and that are no parameter of the model as it is loaded."""
        return sorted((self.base.shapes.keys() & self.tuned.shapes.keys()) - {place.tensor for place in self.places})

    def is_changed(self, tensor: str) -> bool:
        """Whether a tensor differs."""
        import torch

        base, tuned = self.base.read(tensor), self.tuned.read(tensor)
        return (
            not torch.equal(base, tuned) if base.dtype == tuned.dtype else bool((base.float() != tuned.float()).any())
        )

    def difference(self, tensor: str) -> torch.Tensor:
        """Return tuned - base as float32."""
        return self.tuned.read(tensor).float() - self.base.read(tensor).float()

    def modules(self) -> list[str]:
        """Names of all modules of the model."""
        return [name for name, _ in self.model.named_modules() if name]

    def _in_files(self, name: str) -> str | None:
        """Return the name of a parameter in the files, where the model's own prefix may be left out."""
        short = name.removeprefix(f"{self.model.base_model_prefix}.")
        return next((one for one in (name, short) if one in self.base.shapes), None)

    def _tied_sides(self) -> tuple[str, str] | tuple[()]:
        """Return the names of the input and the output embeddings if these are one tensor."""
        given, answered = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        if given is None or answered is None or not self.model.config.get_text_config().tie_word_embeddings:
            return ()
        names = {id(module): name for name, module in self.model.named_modules()}
        return names[id(given)], names[id(answered)]

    def _require_same(self) -> None:
        base, tuned = self.base.shapes, self.tuned.shapes
        sides = self._tied_sides()
        needed = {one for name in self.model.state_dict() if (one := self._in_files(name))}
        needed -= {self._in_files(f"{side}.weight") for side in sides[1:]}
        lacking = sorted(needed - tuned.keys())
        if lacking:
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise ModelError(
                f"'{self.tuned.path}' lacks '{lacking[0]}'{more}, which '{self.base.path}' has; give two checkpoints "
                "of one architecture"
            )
        if sides and not self.tuned.settings.get_text_config().tie_word_embeddings:
            raise ModelError(
                f"'{self.tuned.path}' has output weights of its own, which '{self.base.path}' shares with its input; "
                "no adapter can hold that"
            )
        for name in sorted(base.keys() & tuned.keys()):
            if base[name] != tuned[name]:
                raise ModelError(
                    f"'{name}' has the shape {tuned[name]} in '{self.tuned.path}' and {base[name]} in "
                    f"'{self.base.path}'; give two checkpoints of one architecture"
                )


def _skeleton(weights: Weights) -> Any:
    """Build the model without its weights, to learn what its modules are."""
    import torch
    import transformers

    settings = weights.settings
    names: Sequence[str] = settings.architectures or ()
    kind = getattr(transformers, names[0], None) if names else None
    try:
        with torch.device("meta"):
            if kind is None:
                return transformers.AutoModelForCausalLM.from_config(settings, trust_remote_code=False)
            return kind(settings)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelError(f"the model in '{weights.path}' is of no known architecture: {first_line(error)}") from error


def _kind(module: Any) -> Kind:
    import torch
    from transformers.pytorch_utils import Conv1D

    kinds: tuple[tuple[type, Kind], ...] = (
        (torch.nn.Linear, "linear"),
        (Conv1D, "conv1d"),
        (torch.nn.Embedding, "embedding"),
    )
    return next((kind for one, kind in kinds if isinstance(module, one)), "other")
