"""Adapters with passports, made without training: random LoRA of the tiny model, as large in effect as trained ones."""

from pathlib import Path

from peftkit import machine
from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
from peftkit.adapter.passport import Base, Passport, Tokenizer, file_hash, write_passport
from peftkit.config import RunConfig
from peftkit.model.fingerprint import fingerprint, text_hash, tokenizer_hash
from peftkit.model.load import Source, load_tokenizer
from peftkit.resolve import resolve

from ..merge.adapters import make_adapter

PLAIN = ("model.quantization=none", "model.dtype=float32")
NOTHING = {"before": {}, "after": {}, "difference": {}, "metrics": {}, "data": {}, "versions": {}}


def config_of(recipe: str, model: Path, *words: str) -> RunConfig:
    return resolve(recipe, words=[f"model.path={model}", *PLAIN, *words]).config


def adapter(model: Path, folder: Path, recipe: str, *words: str, seed: int = 0, **lora) -> Path:
    """Make an adapter that says it was trained with a recipe; words are settings of the run, the rest is LoRA's."""
    make_adapter(model, folder, seed, **lora)
    config = config_of(recipe, model, *words)
    source = Source(str(model))
    tokenizer = load_tokenizer(source)
    base = Base(
        path=str(model),
        revision=None,
        architecture="LlamaForCausalLM",
        fingerprint=fingerprint(source),
        quantization=config.model.quantization,
        dtype="float32",
    )
    template = Tokenizer(
        vocabulary_sha256=tokenizer_hash(tokenizer),
        template_sha256=text_hash(tokenizer.chat_template),
        template=tokenizer.chat_template,
    )
    files = {name: file_hash(folder / name) for name in (WEIGHTS, PEFT_CONFIG)}
    passport = Passport(
        recipe=recipe, intended_use="", base=base, tokenizer=template, config=config, files=files, **NOTHING
    )
    write_passport(folder, passport)
    return folder


machine.quiet_libraries()
