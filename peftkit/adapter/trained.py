"""Open a trained adapter together with the base model that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit import machine
from peftkit.adapter.attach import load_adapter
from peftkit.adapter.passport import PASSPORT, Passport, read_passport
from peftkit.data.encode import PLAIN_TEMPLATE, Encoder
from peftkit.errors import AdapterError
from peftkit.evaluate.answers import Answer, answer
from peftkit.model.fingerprint import fingerprint, text_hash, tokenizer_hash
from peftkit.model.load import find_model, load_model, load_tokenizer

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class Trained:
    """A base model with its adapter, and the encoder that writes prompts as training did."""

    model: PeftModel
    encoder: Encoder
    passport: Passport

    def predict(self, texts: Sequence[str]) -> list[Answer]:
        """Answer texts as the recipe asks them.

        Args:
            texts: One text each; it stands for the prompt's first column.
        """
        names = self.encoder.required_columns()
        room = self.passport.config.evaluate.max_new_tokens
        columns = [dict.fromkeys(names, "") | {names[0]: text} for text in texts]
        return answer(
            self.model,
            self.encoder.tokenizer,
            [self.encoder.prompt_ids(one, room=room) for one in columns],
            label_ids=self.encoder.label_ids(),
            end_ids=self.encoder.end_ids,
            max_new_tokens=room,
            batch_size=self.passport.config.evaluate.batch_size,
        )


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
    if fingerprint(source) != passport.base.fingerprint:
        raise AdapterError(
            f"the adapter in '{folder}' was trained on other weights than those of '{config.path}' here; "
            "use the base model that its passport names"
        )
    tokenizer = load_tokenizer(source)
    if tokenizer_hash(tokenizer) != passport.tokenizer.vocabulary_sha256:
        raise AdapterError(f"the adapter in '{folder}' was trained with another tokenizer than that of '{config.path}'")
    template = passport.tokenizer.template
    if text_hash(template) != passport.tokenizer.template_sha256:
        raise AdapterError(f"the chat template in the passport of '{folder}' was changed; fetch the adapter again")
    tokenizer.chat_template = None if template == PLAIN_TEMPLATE else template
    encoder = Encoder(
        tokenizer,
        passport.config.task,
        max_length=passport.config.train.max_length,
        template_kwargs=config.chat_template_kwargs,
    )
    return Trained(load_adapter(load_model(source, config), folder), encoder, passport)
