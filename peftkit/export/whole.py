"""A model that is written as a whole: a base with an adapter merged in, planned but not made, or one as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftkit.config import ModelConfig
from peftkit.errors import ConfigError, ModelError
from peftkit.export.gguf_arch import Architecture, architecture_of
from peftkit.merge.given import Weighted, adapter_name
from peftkit.merge.inputs import Inputs, open_inputs
from peftkit.merge.merge import plan_of
from peftkit.merge.plan import Output, make_plan
from peftkit.merge.record import Onto
from peftkit.merge.rows import Trained
from peftkit.merge.write import trained_weights
from peftkit.model.fingerprint import weights_folder
from peftkit.model.load import AUTO_CLASSES, Source, find_model, settings_of
from peftkit.model.quantize import stored_kind
from peftkit.ui import UI


@dataclass(frozen=True)
class Whole:
    """A model that can be written.

    Attributes:
        source: Where its base, tokenizer and template are.
        architecture: How it is laid out.
        outputs: Its tensors.
        trained: How the weights were held that training saw, if an adapter is added to those.
        name: What it is called.
        fingerprint: That of the base's weights, if it is known.
        system: The system message that the adapter was trained with, if any.
        prompt: How its prompts were written, with `{column}` for a text.
        template_arguments: Named arguments of the chat template in training.
        notes: What a user should know, a sentence each.
    """

    source: Source
    architecture: Architecture
    outputs: Sequence[Output]
    trained: Trained | None
    name: str
    fingerprint: str | None
    system: str | None = None
    prompt: str = "{text}"
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def merged_model(adapter: Path, *, base: str | None, onto: Onto | None, force: bool, ui: UI) -> Whole:
    """Plan a base model with an adapter merged in.

    Args:
        adapter: Folder of the adapter, or of the run that wrote it.
        base: The base model, as for `model.path`; None takes the one that the adapter names.
        onto: What the adapter is added to; None takes what it was trained and judged on.
        force: Let another base pass.
        ui: Where progress is shown.

    Raises:
        PeftkitError: As `peftkit.merge.inputs.open_inputs` and `peftkit.merge.plan.make_plan`; or the model has a head,
            reads before it writes, or is of an architecture that is not written.
    """
    inputs = open_inputs([Weighted(adapter)], base, force=force, progress=ui.note)
    if inputs.family != "causal":
        raise ModelError(
            f"'{adapter}' is for a model that answers by {'a head' if inputs.family == 'head' else 'an encoder'}, and "
            "GGUF files here are for models that write on; merge it with `peftkit merge` and serve it with transformers"
        )
    trained = trained_weights(inputs)
    if onto == "trained" and trained is None:
        raise ConfigError(
            f"--onto trained: nothing says that '{adapter}' was trained on quantized weights; leave it out"
        )
    onto = onto or ("trained" if trained else "original")
    architecture_of(inputs.settings)  # before what takes long
    plan = plan_of(inputs, onto, ui)
    notes = (*inputs.warnings, *inputs.forced)
    if trained:
        notes = (*notes, f"the adapter was trained on {trained.kind} weights, and is merged onto the {onto} ones")
    return Whole(
        inputs.source,
        architecture_of(inputs.settings, tied=bool(inputs.settings.tie_word_embeddings) and not plan.untied),
        [one for file in plan.files for one in file.outputs],
        trained if onto == "trained" else None,
        adapter_name(inputs.adapters[0].folder),
        inputs.base_fingerprint,
        **_training(inputs),
        notes=notes,
    )


def _training(inputs: Inputs) -> dict[str, Any]:
    """Return what a passport says of how a model was asked in training."""
    if inputs.passport is None:
        return {}
    task, model = inputs.passport.config.task, inputs.passport.config.model
    return {
        "system": task.system_message,
        "prompt": task.prompt,
        "template_arguments": model.chat_template_kwargs,
    }


def plain_model(path: str, ui: UI) -> Whole:
    """Plan a model as it is: a merged one, or a base.

    Args:
        path: As `model.path`.
        ui: Where progress is shown.

    Raises:
        ModelError: There is none, or it is of a kind that is not written.
    """
    import transformers

    source = find_model(ModelConfig(path=path), ui.note)
    settings = settings_of(source)
    if kind := stored_kind(settings):
        raise ModelError(f"the weights of '{path}' are stored as {kind}; name the unquantized model")
    architecture = architecture_of(settings)
    model_class = getattr(transformers, AUTO_CLASSES["causal"])
    inputs = Inputs((), source, weights_folder(source), "causal", model_class, settings, None)
    plan = make_plan(inputs, onto_trained=False, changes={})
    outputs = [one for file in plan.files for one in file.outputs]
    return Whole(source, architecture, outputs, None, Path(path).name, None)
