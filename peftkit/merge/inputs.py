"""What a merge starts from: adapters with their weights, and the base model, checked to belong together."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.adapter.attach import read_files, require_finite, saved_settings
from peftkit.adapter.passport import PASSPORT, Passport, describe_difference, read_passport
from peftkit.config import ModelConfig
from peftkit.errors import AdapterError, ModelError
from peftkit.merge.given import Weighted, adapter_folder
from peftkit.model.fingerprint import base_digests, combined, weights_folder
from peftkit.model.load import AUTO_CLASSES, Source, find_model, settings_of
from peftkit.model.quantize import stored_kind

if TYPE_CHECKING:
    import torch

    from peftkit.model.family import Family

_FAMILIES: Mapping[str, Family] = {"SEQ_CLS": "head", "SEQ_2_SEQ_LM": "seq2seq", "CAUSAL_LM": "causal"}


@dataclass(frozen=True)
class Given:
    """One adapter.

    Attributes:
        folder: Where it is.
        weight: What its change is multiplied by.
        settings: PEFT's configuration.
        state: Its tensors, by their names in the file.
        passport: Its passport, if it has one.
    """

    folder: Path
    weight: float
    settings: Any
    state: Mapping[str, torch.Tensor]
    passport: Passport | None


@dataclass(frozen=True)
class Inputs:
    """Adapters and their base.

    Attributes:
        adapters: At least one.
        source: The base model.
        folder: Where its files are.
        family: How it answers.
        model_class: transformers' class of it.
        settings: Its configuration, with the adapter's head where it has one.
        base_fingerprint: Of its weights; None where no adapter has a passport to compare it with.
        warnings: What could not be checked, a sentence each.
        forced: What was wrong and was let pass.
    """

    adapters: Sequence[Given]
    source: Source
    folder: Path
    family: Family
    model_class: Any
    settings: Any
    base_fingerprint: str | None
    warnings: list[str] = field(default_factory=list)
    forced: list[str] = field(default_factory=list)

    @property
    def passport(self) -> Passport | None:
        """The first adapter's passport."""
        return self.adapters[0].passport


def open_inputs(
    words: Sequence[Weighted],
    base: str | None = None,
    *,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Inputs:
    """Read adapters, find their base, and check that they belong together.

    Args:
        words: Each adapter's folder, or the folder of its run, with its weight.
        base: The base model, as for `model.path`; None takes the one that the first adapter names.
        force: Let another base pass, and note it.
        progress: Told what takes long.

    Raises:
        AdapterError: An adapter is damaged, or belongs to another base.
        ModelError: The base cannot be had, or its weights are of a kind that nothing can be merged into.
    """
    adapters = [_open(folder, weight) for folder, weight in words]
    first = adapters[0]
    model = _base_of(first, base)
    source = find_model(model, progress)
    _refuse_gguf(model, source)
    folder = weights_folder(source)
    settings = settings_of(source)
    if kind := stored_kind(settings):
        raise ModelError(
            f"the weights of '{model.path}' are stored as {kind}, and what is added to them would be lost in rounding; "
            "name the unquantized model with --base"
        )
    warnings: list[str] = []
    forced: list[str] = []
    digests: dict[str, str] = {}
    if any(one.passport for one in adapters):
        if progress is not None:
            progress("checking the base model's fingerprint")
        digests = base_digests(source)
    for one in adapters:
        _check_base(one, model.path, digests, warnings, forced, force=force)
    family, model_class = _class_of(first, source, settings)
    mark = combined(digests) if digests else None
    return Inputs(adapters, source, folder, family, model_class, settings, mark, warnings, forced)


def _open(folder: Path, weight: float) -> Given:
    folder = adapter_folder(folder)
    passport = read_passport(folder) if (folder / PASSPORT).is_file() else None
    written, state = read_files(folder)
    require_finite(state, folder)
    return Given(folder, weight, saved_settings(written, folder), state, passport)


def _base_of(adapter: Given, base: str | None) -> ModelConfig:
    """Return the settings of the base model that is asked for, else of the one that the adapter names."""
    named = adapter.settings.base_model_name_or_path
    if adapter.passport is not None:
        model = adapter.passport.config.model
        return model if base is None else model.model_copy(update={"path": base, "revision": None})
    if base is None and not named:
        raise AdapterError(f"the adapter in '{adapter.folder}' does not name its base model; name it with --base")
    return ModelConfig(path=base or named, revision=None if base else adapter.settings.revision)


def _refuse_gguf(model: ModelConfig, source: Source) -> None:
    if model.path.lower().endswith(".gguf"):
        raise ModelError(
            f"'{model.path}' is a GGUF file, whose own kinds of blocks would round the adapter away; merge into the "
            f"bfloat16 weights that were made of it for training: --base {source.path}"
        )


def _check_base(
    adapter: Given, base: str, digests: Mapping[str, str], warnings: list[str], forced: list[str], *, force: bool
) -> None:
    if adapter.passport is None:
        warnings.append(
            f"the adapter in '{adapter.folder}' has no passport, so only names, shapes and settings say that it "
            f"belongs to '{base}'"
        )
    elif how := describe_difference(adapter.passport, digests):
        wrong = f"the adapter in '{adapter.folder}' was trained on other weights than those of '{base}' here: {how}"
        if not force:
            raise AdapterError(f"{wrong}; name the right base with --base, or pass --force to merge all the same")
        forced.append(wrong)


def _class_of(adapter: Given, source: Source, settings: Any) -> tuple[Family, Any]:
    """Return how the model answers and transformers' class of it; a head is written into its settings."""
    import transformers

    from peftkit.model.family import family_of
    from peftkit.model.head import head_settings

    if adapter.passport is not None:
        config = adapter.passport.config
        family = family_of(source, config)
        if family == "head":
            settings.update(head_settings(config.task))
        return family, getattr(transformers, AUTO_CLASSES[family])
    task = adapter.settings.task_type
    family = _FAMILIES.get(str(getattr(task, "value", task)), "causal")
    if family == "head":
        settings.num_labels = _outputs(adapter)
    made_as = getattr(transformers, (settings.architectures or [""])[0], None) if family == "causal" else None
    return family, made_as or getattr(transformers, AUTO_CLASSES[family])


def _outputs(adapter: Given) -> int:
    """Return how many outputs the head of an adapter has."""
    for name, tensor in adapter.state.items():
        if re.search(r"\.(score|classifier|out_proj)\.weight$", name):
            return len(tensor)
    raise AdapterError(f"the adapter in '{adapter.folder}' is for labels, and holds no head")
