"""Open a trained adapter together with the base model that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit import machine
from peftkit.adapter.attach import load_adapter
from peftkit.adapter.passport import PASSPORT, Passport, describe_difference, read_passport
from peftkit.data.encode import PLAIN_TEMPLATE
from peftkit.data.encoders import make_encoder
from peftkit.data.examples import RowEncoder
from peftkit.errors import AdapterError
from peftkit.evaluate.answers import Answer
from peftkit.evaluate.ask import answer_examples, prompt_example
from peftkit.model.family import Family, family_of
from peftkit.model.fingerprint import base_digests, text_hash, tokenizer_hash
from peftkit.model.load import find_model, load_model, load_tokenizer

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class Trained:
    """A base model with its adapter, and the encoder that writes prompts as training did."""

    model: PeftModel
    family: Family
    encoder: RowEncoder
    passport: Passport

    def predict(self, texts: Sequence[str]) -> list[Answer]:
        """Answer texts as the recipe asks them.

        Args:
            texts: One text each; it stands for the prompt's first column.
        """
        config = self.passport.config
        room = config.evaluate.max_new_tokens
        examples = [prompt_example(self.encoder, text, room=room) for text in texts]
        return answer_examples(self.model, self.family, self.encoder, examples, config)


def open_adapter(folder: Path, progress: Callable[[str], None] | None = None) -> Trained:
    """Load an adapter onto its base model, after checking that it belongs to it.

    Args:
        folder: The adapter's folder, or the folder of the run that wrote it.
        progress: Told what takes long.

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
    encoder = make_encoder(family, tokenizer, passport.config)
    return Trained(load_adapter(load_model(source, passport.config, family), folder), family, encoder, passport)
