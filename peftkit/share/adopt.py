"""Give an adapter that another program trained a passport, after checking that it fits its base model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from peftkit import machine
from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS, write_files
from peftkit.adapter.card import write_card
from peftkit.adapter.passport import (
    PASSPORT,
    Adopted,
    Base,
    Passport,
    Tokenizer,
    file_hash,
    short_digests,
    write_passport,
)
from peftkit.config import Quantization, RunConfig
from peftkit.data.encode import PLAIN_TEMPLATE
from peftkit.errors import AdapterError, ConfigError
from peftkit.merge.adapted import require_fits
from peftkit.merge.given import Weighted, adapter_folder
from peftkit.merge.inputs import Inputs, open_inputs
from peftkit.merge.places import meta_model
from peftkit.model.fingerprint import base_digests, combined, text_hash, tokenizer_hash, values_digest
from peftkit.model.licence import base_licence
from peftkit.model.load import load_tokenizer, resolved_dtype
from peftkit.resolve import resolve
from peftkit.rundir import atomic_folder
from peftkit.share.foreign import Foreign, read_foreign
from peftkit.ui import UI

if TYPE_CHECKING:
    import torch

NO_RECIPE = "adopted"
"""What a passport names in place of a recipe where none was given."""
_ANSWER = 256  # longest answer of a chat, in tokens
_KINDS = {"CAUSAL_LM": "chat", "SEQ_2_SEQ_LM": "generation"}


def adopt(
    adapter: Path,
    out: Path,
    *,
    base: str | None = None,
    quantization: str | None = None,
    recipe: str | None = None,
    words: tuple[str, ...] = (),
    ui: UI | None = None,
) -> dict[str, Any]:
    """Write a copy of a foreign adapter with a passport.

    Args:
        adapter: The adapter's folder.
        out: The folder to write.
        base: The base model, as for `model.path`; None takes the one that the adapter names.
        quantization: How the base was held in training; None takes nf4 where the adapter names a 4-bit copy, else none.
        recipe: Whose prompts it is asked with; None asks it as a chat.
        words: `key=value` settings of that recipe.
        ui: Where progress and the result are shown.

    Returns:
        `folder`, `program`, `base`, `modules` (tensors that were placed), `assumed` and `unknown`.

    Raises:
        AdapterError: It has a passport, is damaged, or does not fit the base.
        ModelError: The base cannot be had.
        OutputError: The folder exists or cannot be written.
    """
    ui = ui or UI(quiet=True)
    machine.quiet_libraries()
    if (adapter_folder(adapter) / PASSPORT).exists():
        raise AdapterError(f"the adapter in '{adapter}' has a passport ({PASSPORT}) and needs none")
    if quantization is not None and quantization not in get_args(Quantization):
        raise ConfigError(f"--quantization {quantization} is not one of {', '.join(get_args(Quantization))}")
    if words and recipe is None:
        raise ConfigError(f"'{words[0]}' is a setting of a recipe; name one with --recipe")
    foreign = read_foreign(adapter)
    held = quantization or ("nf4" if foreign.four_bit else "none")
    with atomic_folder(out) as folder:
        write_files(folder, foreign.state, foreign.settings)
        inputs = open_inputs([Weighted(folder)], base, progress=ui.note)
        state = _without_base_weights(inputs, foreign)
        named = base or str(foreign.settings["base_model_name_or_path"])
        write_files(folder, state, {**foreign.settings, "base_model_name_or_path": named})
        config = _config(inputs, foreign, named, held, recipe, words)
        passport = _passport(folder, inputs, foreign, config, held_is_known=quantization is not None)
        write_passport(folder, passport)
        write_card(folder, passport)
    assert passport.adopted is not None
    report: dict[str, Any] = {
        "folder": str(out),
        "program": passport.adopted.program,
        "base": passport.base.path,
        "tensors": len(state),
        "assumed": list(passport.adopted.assumed),
        "unknown": list(passport.adopted.unknown),
    }
    ui.say(f"{out}: an adapter of {report['program']}, {len(state)} tensors, all in their places in {report['base']}")
    for key, what in (("assumed", "taken for granted"), ("unknown", "not known")):
        ui.say(f"  {what}: {', '.join(report[key])}" if report[key] else f"  {what}: nothing")
    return report


def _without_base_weights(inputs: Inputs, foreign: Foreign) -> dict[str, torch.Tensor]:
    """Check that every tensor has its place; weights that are the base's own are left out.

    Raises:
        AdapterError: A tensor is missing, left over or misshaped, or embeddings are not the base's.
    """
    given = inputs.adapters[0]
    extra = require_fits(given, meta_model(inputs.model_class, inputs.settings))
    if not extra:
        return foreign.state
    known = base_digests(inputs.source)
    for key, name in extra.items():
        if known.get(name) != values_digest(foreign.state[key]):
            raise AdapterError(
                f"the adapter in '{given.folder}' brings its own '{name}', which is not the base's; merge it into the "
                "base in the program that trained it"
            )
    return {key: value for key, value in foreign.state.items() if key not in extra}


def _config(
    inputs: Inputs, foreign: Foreign, named: str, held: str, recipe: str | None, words: tuple[str, ...]
) -> RunConfig:
    """Return the configuration that stands for the unknown one: the recipe's, else that of a plain chat."""
    settings = foreign.settings
    known = {name: settings.get(name) for name in ("r", "lora_alpha", "use_rslora", "use_dora")}
    values = {
        "model": {"path": named, "revision": inputs.source.revision, "quantization": held},
        "adapter": {
            "method": str(settings["peft_type"]).lower(),
            **{name: value for name, value in known.items() if value is not None},
        },
    }
    if recipe is not None:
        return resolve(recipe, words=words, values=values).config
    task = str(settings.get("task_type"))
    if inputs.family == "head" or task not in _KINDS:
        raise ConfigError(
            f"the adapter is of the type {task}, whose labels or prompts its files do not say; name a recipe, such as "
            "--recipe classification task.labels=no,yes"
        )
    return RunConfig.model_validate(
        {"recipe": NO_RECIPE, "task": {"kind": _KINDS[task]}, "evaluate": {"max_new_tokens": _ANSWER}, **values}
    )


def _passport(folder: Path, inputs: Inputs, foreign: Foreign, config: RunConfig, *, held_is_known: bool) -> Passport:
    digests = base_digests(inputs.source)
    tokenizer = load_tokenizer(inputs.source)
    template = foreign.template or tokenizer.chat_template or PLAIN_TEMPLATE
    assumed = {
        "base.path": config.model.path != foreign.settings.get("base_model_name_or_path"),
        "base.fingerprint": True,
        "base.quantization": not held_is_known,
        "base.dtype": True,
        "tokenizer.vocabulary_sha256": True,
        "tokenizer.template": foreign.template is None,
        "config": True,
    }
    return Passport(
        recipe=config.recipe,
        intended_use="Not known: another program trained it, and its files do not say.",
        base=Base(
            path=config.model.path,
            revision=inputs.source.revision,
            architecture=inputs.settings.architectures[0],
            fingerprint=combined(digests),
            tensors=short_digests(digests),
            quantization=config.model.quantization,
            dtype=str(resolved_dtype(config.model)).removeprefix("torch."),
            licence=base_licence(config.model, inputs.source),
        ),
        tokenizer=Tokenizer(
            vocabulary_sha256=tokenizer_hash(tokenizer),
            template_sha256=text_hash(template),
            template=template,
            added_tokens=tokenizer.get_added_vocab(),
        ),
        config=config,
        data={"source": {"name": "not known"}, "rows": {}},
        before={},
        after={},
        difference={},
        metrics={},
        versions=machine.versions(),
        files={name: file_hash(folder / name) for name in (WEIGHTS, PEFT_CONFIG)},
        adopted=Adopted(
            program=foreign.program,
            assumed=tuple(name for name, is_so in assumed.items() if is_so),
            unknown=("intended_use", "data", "before", "after", "metrics"),
        ),
    )
