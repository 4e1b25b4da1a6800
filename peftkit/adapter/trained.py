"""Open trained adapters together with the base model that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit import machine
from peftkit.adapter.attach import add_adapter, load_adapter
from peftkit.adapter.passport import PASSPORT, Passport, describe_difference, read_passport
from peftkit.data.encode import PLAIN_TEMPLATE
from peftkit.data.encoders import make_encoder
from peftkit.data.examples import RowEncoder
from peftkit.errors import AdapterError
from peftkit.evaluate.answers import Answer
from peftkit.evaluate.ask import answer_examples, prompt_example
from peftkit.model.family import Family, family_of
from peftkit.model.fingerprint import base_digests, text_hash, tokenizer_hash
from peftkit.model.load import Source, find_model, load_model, load_tokenizer, resolved_dtype

if TYPE_CHECKING:
    from peft import PeftModel

FIRST = "default"
"""PEFT's own name of the first adapter."""


@dataclass(frozen=True)
class Opened:
    """An adapter whose files and base model were checked, before any weights are loaded.

    Attributes:
        folder: The adapter's folder.
        source: Its base model.
        family: How that model answers.
        encoder: Writes prompts as training did.
        passport: The adapter's passport.
    """

    folder: Path
    source: Source
    family: Family
    encoder: RowEncoder
    passport: Passport


@dataclass(frozen=True)
class Trained:
    """A base model with its adapter, and the encoder that writes prompts as training did.

    Attributes:
        model: The base model with this adapter, and maybe with others beside it.
        family: How it answers.
        encoder: Writes prompts as training did.
        passport: The adapter's passport.
        source: The base model.
        key: PEFT's name of this adapter in `model`.
    """

    model: PeftModel
    family: Family
    encoder: RowEncoder
    passport: Passport
    source: Source
    key: str = FIRST

    def predict(self, texts: Sequence[str]) -> list[Answer]:
        """Answer texts as the recipe asks them.

        Args:
            texts: One text each; it stands for the prompt's first column.
        """
        with worn(self.model, self.key):
            return self._answer(texts)

    def predict_without(self, texts: Sequence[str]) -> list[Answer]:
        """Answer texts as the recipe asks them, with the base model alone."""
        with worn(self.model, None):
            return self._answer(texts)

    def _answer(self, texts: Sequence[str]) -> list[Answer]:
        config = self.passport.config
        room = config.evaluate.max_new_tokens
        examples = [prompt_example(self.encoder, text, room=room) for text in texts]
        return answer_examples(self.model, self.family, self.encoder, examples, config)


def wear(model: PeftModel, key: str) -> None:
    """Let a model answer with one of its adapters, by PEFT's name of it, and with no other from now on."""
    if model.active_adapter != key:
        model.set_adapter(key, inference_mode=True)


@contextmanager
def worn(model: PeftModel, key: str | None) -> Iterator[None]:
    """Let a model answer with one of its adapters, and no other; without any where there is no name."""
    if key is None:
        with model.disable_adapter():
            yield
    else:
        wear(model, key)
        yield


def open_adapter(folder: Path, progress: Callable[[str], None] | None = None) -> Trained:
    """Load an adapter onto its base model, after checking that it belongs to it.

    Args:
        folder: The adapter's folder, or the folder of the run that wrote it.
        progress: Told what takes long.

    Raises:
        AdapterError: The adapter is damaged or belongs to another base model or tokenizer.
        ModelError: The base model cannot be had.
    """
    (trained,) = open_adapters([folder], progress)
    return trained


def open_adapters(folders: Sequence[Path], progress: Callable[[str], None] | None = None) -> list[Trained]:
    """Load adapters side by side onto one base model, which is in memory once.

    Args:
        folders: The folder of each adapter, or of the run that wrote it; at least one.
        progress: Told what takes long.

    Raises:
        AdapterError: An adapter is damaged, belongs to another base model or tokenizer, or cannot share it.
        ModelError: The base model cannot be had.
    """
    opened = [check_adapter(folder, progress) for folder in folders]
    first = opened[0]
    for other in opened[1:]:
        _require_shared(first, other)
    model = load_adapter(load_model(first.source, first.passport.config, first.family), first.folder)
    keys = [FIRST, *(f"adapter_{place:04}" for place in range(1, len(opened)))]
    for key, other in zip(keys[1:], opened[1:], strict=True):
        add_adapter(model, key, other.folder)
    return [
        Trained(model, one.family, one.encoder, one.passport, one.source, key)
        for one, key in zip(opened, keys, strict=True)
    ]


def check_adapter(folder: Path, progress: Callable[[str], None] | None = None) -> Opened:
    """Find an adapter's base model, and check that they belong together; no weights are loaded.

    Raises:
        AdapterError: The adapter is damaged or belongs to another base model or tokenizer.
        ModelError: The base model cannot be had.
    """
    try:
        if not (folder / PASSPORT).is_file() and (folder / "adapter" / PASSPORT).is_file():
            folder = folder / "adapter"
    except OSError as error:  # a text in place of a folder can be longer than a name may be
        raise AdapterError(f"there is no adapter folder '{str(folder)[:80]}...'; give ADAPTER before TEXT") from error
    passport = read_passport(folder)
    machine.quiet_libraries()
    config = passport.config.model
    source = find_model(config, progress)
    if wrong := describe_difference(passport, base_digests(source)):
        raise AdapterError(
            f"the adapter in '{folder}' was trained on other weights than those of '{config.path}' here: {wrong}; "
            "use the base model that its passport names"
        )
    tokenizer = load_tokenizer(source, config.extra)
    if tokenizer_hash(tokenizer) != passport.tokenizer.vocabulary_sha256:
        raise AdapterError(f"the adapter in '{folder}' was trained with another tokenizer than that of '{config.path}'")
    template = passport.tokenizer.template
    if text_hash(template) != passport.tokenizer.template_sha256:
        raise AdapterError(f"the chat template in the passport of '{folder}' was changed; fetch the adapter again")
    tokenizer.chat_template = None if template == PLAIN_TEMPLATE else template
    family = family_of(source, passport.config)
    return Opened(folder, source, family, make_encoder(family, tokenizer, passport.config), passport)


def _require_shared(first: Opened, other: Opened) -> None:
    """Refuse an adapter that was made for other weights than the first, or for weights that are held otherwise."""
    for what, of in _SHARED.items():
        if of(first) != of(other):
            raise AdapterError(
                f"the adapters in '{first.folder}' and '{other.folder}' cannot share one base model: {what} is "
                f"{of(first)} for the first and {of(other)} for the second; use them one at a time"
            )


def _outputs(one: Opened) -> int:
    """Return how many outputs the head of a model has; none where there is no head."""
    return (len(one.passport.config.task.labels or ()) or 1) if one.family == "head" else 0


_SHARED: dict[str, Callable[[Opened], object]] = {
    "the fingerprint of its weights": lambda one: one.passport.base.fingerprint[:12],
    "how it answers": lambda one: one.family,
    "the number of outputs of its head": _outputs,
    "model.quantization": lambda one: one.passport.config.model.quantization,
    "model.dtype": lambda one: str(resolved_dtype(one.passport.config.model)).removeprefix("torch."),
    "model.attn_implementation": lambda one: one.passport.config.model.attn_implementation,
    "model.extra": lambda one: one.passport.config.model.extra,
}
"""What adapters that share one base model must agree on."""
