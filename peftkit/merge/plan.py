"""What will be written, tensor by tensor, decided and checked before anything is.

`peftkit.merge.adapted` says what the adapters do to each parameter, and `peftkit.merge.places` where that one stands in
the files; here both become the list of tensors to write.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from peftkit.errors import AdapterError, ModelError
from peftkit.merge.adapted import NotStreamable, changes_of
from peftkit.merge.changes import Change, Experts, Replaced, same_change
from peftkit.merge.held import quantized_layers, trained_dtype
from peftkit.merge.inputs import Given, Inputs
from peftkit.merge.places import Place, Places, find_places, meta_model
from peftkit.model.weight_files import (
    StoredTensor,
    WeightFile,
    format_name,
    metadata_of,
    weight_files,
    write_header,
)

Changes = Sequence[Change | Experts]
"""What is done to one parameter, in order."""


@dataclass(frozen=True)
class Piece:
    """Rows of a stored tensor that are changed alike.

    Attributes:
        first: The first of them.
        count: How many.
        skipped: Rows of the parameter's matrix before them.
        changes: What is done to them, in order.
    """

    first: int
    count: int
    skipped: int
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Output:
    """One tensor that is written.

    Attributes:
        name: Its name.
        source: What it is made of; None where the base has no such tensor.
        dtype: Its type by the format's name.
        shape: Its shape.
        pieces: What is changed.
        held: Whether the values that training saw, quantized and dequantized, stand in place of the source's.
        parameter: The parameter of the model that it is, or is part of; empty where it is none.
    """

    name: str
    source: StoredTensor | None
    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...] = ()
    held: bool = False
    parameter: str = ""

    @property
    def copied(self) -> bool:
        """Whether it is the source, byte for byte."""
        return not self.pieces and not self.held

    @property
    def size(self) -> int:
        """Its number of bytes."""
        if self.source is not None:
            return self.source.size
        values = self.pieces[0].changes[0]
        assert isinstance(values, Replaced)
        return values.values.numel() * values.values.element_size()


@dataclass(frozen=True)
class OutputFile:
    """One file that is written: its header, and its tensors in the order of their bytes."""

    name: str
    header: bytes
    outputs: tuple[Output, ...]

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(one.size for one in self.outputs)


@dataclass(frozen=True)
class Plan:
    """What will be written.

    Attributes:
        files: The weights.
        index: What is added to the index of the files: names of tensors with their file.
        config: What changes in `config.json`; empty where it stays as it is, byte for byte.
        untied: Parameters that shared their values and no longer do.
        left_out: Tensors of the base that a model with a head has no place for.
    """

    files: tuple[OutputFile, ...]
    index: Mapping[str, str]
    config: Mapping[str, Any]
    untied: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files of weights."""
        return sum(file.size for file in self.files)

    @property
    def changed(self) -> list[Output]:
        """The tensors that are not mere copies."""
        return [one for file in self.files for one in file.outputs if not one.copied]


def make_plan(inputs: Inputs, *, onto_trained: bool, changes: Mapping[str, Changes] | None = None) -> Plan:
    """Decide what each tensor of the merged model is made of.

    Args:
        inputs: Adapters and base.
        onto_trained: Whether the adapters are added to the quantized weights that training saw; a passport says which.
        changes: What is done to each parameter, where that is known already.

    Raises:
        AdapterError: An adapter has a tensor without a place or lacks one, is of a kind that cannot be merged, or does
            not go together with another one.
        ModelError: The base's files are damaged or incomplete.
        NotStreamable: The adapter changes something that cannot be computed row by row.
    """
    files = weight_files(inputs.folder)
    model = meta_model(inputs.model_class, inputs.settings)
    places = find_places(model, [tensor for file in files for tensor in file.tensors])
    changes = _all_changes(inputs) if changes is None else changes
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    stored = {**places.tied, **dict.fromkeys(places.of, "")}
    for name, _ in model.named_parameters(remove_duplicate=False):
        if name not in stored and name not in changes:
            raise ModelError(f"the weights in '{inputs.folder}' lack '{name}'; fetch the model again")
    outputs, untied = _outputs(inputs, files, places, shapes, changes, onto_trained)
    config = {"tie_word_embeddings": False} if untied else {}
    if inputs.family == "head":
        config |= _head_of(inputs, type(model).__name__)
    left_out = tuple(sorted(places.unused)) if inputs.family == "head" else ()
    return Plan(*_laid_out(files, outputs), config, tuple(sorted(untied)), left_out)


def _all_changes(inputs: Inputs) -> dict[str, Changes]:
    """Return what all adapters together do to each parameter."""
    changes: dict[str, list[Change | Experts]] = defaultdict(list)
    for adapter in inputs.adapters:
        for name, several in changes_of(adapter, meta_model(inputs.model_class, inputs.settings)).items():
            _require_together(changes[name], several, name, adapter)
            changes[name] += several
    return {name: several for name, several in changes.items() if several}


def _require_together(known: Changes, more: Changes, name: str, adapter: Given) -> None:
    whole = [one for one in (*known, *more) if isinstance(one, Replaced) or getattr(one, "magnitude", None) is not None]
    if known and whole:
        raise AdapterError(
            f"'{name}' is changed by several adapters, and not by plain LoRA in each (last: '{adapter.folder}'), so "
            "their changes do not add up; merge them one after another"
        )
    if adapter.weight != 1 and whole:
        raise AdapterError(
            f"'{adapter.folder}' changes '{name}' otherwise than by plain LoRA, so it cannot be merged with a weight "
            f"of {adapter.weight:g}; leave the weight out"
        )


def _outputs(
    inputs: Inputs,
    files: Sequence[WeightFile],
    places: Places,
    shapes: Mapping[str, tuple[int, ...]],
    changes: Mapping[str, Changes],
    onto_trained: bool,
) -> tuple[dict[str, list[Output]], set[str]]:
    """Return the tensors of each file, and the parameters that get a tensor of their own."""
    held = _held_layers(inputs) if onto_trained else set()
    part_of = {place.tensor.name: (name, place) for name, several in places.of.items() for place in several}
    untied: set[str] = set()
    for name, owner in places.tied.items():
        group = [owner, *(one for one, other in places.tied.items() if other == owner)]
        if any(not _alike(changes.get(one, ()), changes.get(owner, ())) for one in group):
            untied.add(name)
    outputs: dict[str, list[Output]] = {}
    for file in files:
        kept = [one for one in file.tensors if inputs.family != "head" or one.name not in places.unused]
        outputs[file.path.name] = [_output(one, part_of.get(one.name), shapes, changes, held) for one in kept]
    for name in sorted(untied - places.of.keys()):
        source = places.of[places.tied[name]]
        if len(source) != 1 or source[0].expert is not None:
            raise NotStreamable(f"'{name}', which shares its values with a fused parameter")
        one = _output(source[0].tensor, (name, source[0]), shapes, changes, held)
        outputs[one.source.file.name].append(replace(one, name=name))  # type: ignore[union-attr]
    for name in changes:
        if name not in places.of and name not in places.tied:
            outputs[files[-1].path.name].append(_new_output(name, changes[name], shapes[name]))
        elif name in places.of and not places.of[name]:
            raise NotStreamable(f"'{name}', which is stored in a form that cannot be taken apart row by row")
    return outputs, untied


def _held_layers(inputs: Inputs) -> set[str]:
    """Name the layers that training saw quantized."""
    passport = inputs.passport
    assert passport is not None
    config = passport.config.model.model_copy(update={"quantization": passport.base.quantization})
    head = inputs.family == "head"
    return quantized_layers(inputs.model_class, inputs.settings, config, trained_dtype(passport), head=head)


def _alike(one: Changes, other: Changes) -> bool:
    return len(one) == len(other) and all(map(same_change, one, other))


def _output(
    tensor: StoredTensor,
    part: tuple[str, Place] | None,
    shapes: Mapping[str, tuple[int, ...]],
    changes: Mapping[str, Changes],
    held: Collection[str],
) -> Output:
    """Say what becomes of one stored tensor, of which `part` says what parameter it is part of, and which one."""
    if part is None:
        return Output(tensor.name, tensor, tensor.dtype, tensor.shape)
    name, place = part
    pieces: list[Piece] = []
    own = tuple(changes.get(name, ()))
    if own:
        experts = [one for one in own if isinstance(one, Experts)]
        shape = shapes[name]
        if not experts:
            skipped = (place.expert or 0) * (shape[1] if len(shape) == 3 else 0) + place.first
            pieces.append(Piece(0, tensor.rows, skipped, own))  # type: ignore[arg-type]
        elif len(experts) < len(own):
            raise NotStreamable(f"'{name}', which is changed in several ways")
        else:
            for expert in range(shape[0]) if place.expert is None else [place.expert]:
                count = shape[1] if place.expert is None else tensor.rows
                first = expert * shape[1] if place.expert is None else 0
                several = tuple(one.each[expert] for one in experts)
                pieces.append(Piece(first, count, place.first, several))
    return Output(
        tensor.name, tensor, tensor.dtype, tensor.shape, tuple(pieces), name.removesuffix(".weight") in held, name
    )


def _new_output(name: str, changes: Changes, shape: tuple[int, ...]) -> Output:
    """Return a tensor that the base has not: a head's."""
    (change,) = changes
    assert isinstance(change, Replaced)
    rows = len(change.values)
    return Output(name, None, format_name(change.values.dtype), shape, (Piece(0, rows, 0, (change,)),))


def _head_of(inputs: Inputs, architecture: str) -> dict[str, Any]:
    """Return what `config.json` has to say of a head."""
    settings = inputs.settings
    pad = settings.pad_token_id
    if pad is None:  # a decoder's head looks for the last token before padding
        from peftkit.model.load import load_tokenizer

        pad = load_tokenizer(inputs.source).pad_token_id
    return {
        "architectures": [architecture],
        "id2label": {str(number): label for number, label in settings.id2label.items()},
        "label2id": dict(settings.label2id),
        "problem_type": settings.problem_type,
        "pad_token_id": pad,
    }


def _laid_out(
    files: Sequence[WeightFile], outputs: Mapping[str, Sequence[Output]]
) -> tuple[tuple[OutputFile, ...], dict[str, str]]:
    """Return the files with their headers, and the names that the index lacks; a header stays as it is if it can."""
    laid: list[OutputFile] = []
    added: dict[str, str] = {}
    for file in files:
        own = tuple(outputs[file.path.name])
        header = file.header
        if [one.name for one in own] != [one.name for one in file.tensors]:
            header = write_header({one.name: (one.dtype, one.shape, one.size) for one in own}, metadata_of(file))
            known = {one.name for one in file.tensors}
            added |= {one.name: file.path.name for one in own if one.name not in known}
        laid.append(OutputFile(file.path.name, header, own))
    return tuple(laid), added
