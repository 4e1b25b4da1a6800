"""The passport of an adapter: `peftkit.json` beside PEFT's own two files.

It says which base model, tokenizer and template the adapter belongs to, how the base was quantized in training (PEFT
records none of it), and what the adapter was trained for and reached.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
from peftkit.config import RunConfig
from peftkit.errors import AdapterError
from peftkit.model.fingerprint import combined
from peftkit.model.licence import Licence
from peftkit.rundir import write_text

PASSPORT = "peftkit.json"
MOST_BYTES = 1 << 24
"""Bytes of a passport that is read: many times those of the longest chat template."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Base(_Part):
    """The base model an adapter belongs to."""

    path: str = Field(description="as it was given: embedded name, folder, file or hub id")
    revision: str | None
    architecture: str
    fingerprint: str = Field(description="sha256 over all tensors (peftkit.model.fingerprint)")
    tensors: dict[str, str] = Field(
        default_factory=dict, description="the first 16 digits of each tensor's sha256, which say what differs"
    )
    quantization: str = Field(description="how its weights were held in training")
    dtype: str = Field(description="dtype of unquantized weights and of computation in training")
    licence: Licence | None = Field(None, description="its licence, which the adapter inherits; none where unknown")


class Tokenizer(_Part):
    """The tokenizer and template that prompts were written with."""

    vocabulary_sha256: str
    template_sha256: str
    template: str = Field(description="the chat template; `plain` where the tokenizer has none")
    added_tokens: dict[str, int] = Field(
        default_factory=dict, description="tokens beside the vocabulary of the tokenizer's model, with their ids"
    )


class Parent(_Part):
    """An adapter that another one was made from."""

    name: str = Field(description="name of its folder")
    weights_sha256: str
    weight: float = Field(1.0, description="how much of it was taken")


class MadeFrom(_Part):
    """How an adapter was made that was not trained itself."""

    change: Literal["combine", "shrink", "export"]
    parents: tuple[Parent, ...]
    settings: dict[str, Any] = Field(description="method, ranks, dtype and what else was asked for")
    energy_kept: float | None = Field(None, description="share of the change's squared norm that is left after a cut")
    kl: float | None = Field(None, description="mean KL divergence of its answers from its parent's, in nats a token")


class Adopted(_Part):
    """Where an adapter came from that another program trained, and what is not known of it for sure."""

    program: str = Field(description="what it was saved by, as far as its files say")
    assumed: tuple[str, ...] = Field(description="parts of this passport that its files do not say")
    unknown: tuple[str, ...] = Field(description="parts of this passport that are empty, or mean nothing")


class Passport(_Part):
    """Everything that later touches an adapter checks this first.

    Version 1 had no `base.tensors`, no `tokenizer.added_tokens` and no `adopted`; it is read as it was.
    """

    schema_version: Literal[1, 2] = 2
    recipe: str
    intended_use: str
    base: Base
    tokenizer: Tokenizer
    config: RunConfig
    data: dict[str, Any] = Field(description="name, hash and licence of the source; row counts")
    before: dict[str, Any]
    after: dict[str, Any]
    difference: dict[str, Any]
    metrics: dict[str, dict[str, Any]] = Field(description="what each metric is called, and which way is better")
    versions: dict[str, str]
    files: dict[str, str] = Field(description="sha256 of the adapter's files")
    made_from: MadeFrom | None = Field(
        None, description="of an adapter that was made from trained ones: config and data are then those of the first"
    )
    adopted: Adopted | None = Field(None, description="of an adapter that peftkit did not train")


def write_passport(folder: Path, passport: Passport) -> None:
    """Write `peftkit.json` into an adapter's folder, in one piece."""
    write_text(folder / PASSPORT, passport.model_dump_json(indent=2) + "\n")


def read_passport(folder: Path) -> Passport:
    """Read an adapter's passport, and check that the adapter's files are the ones that it names.

    Raises:
        AdapterError: There is no passport, it is damaged, or a file was changed since.
    """
    path = folder / PASSPORT
    if not folder.is_dir():
        raise AdapterError(f"there is no adapter folder '{folder}'")
    if not path.is_file():
        from peftkit.merge.staging import RECORD

        inside = folder / "adapter"
        hint = f"; did you mean '{inside}'?" if (inside / PASSPORT).is_file() else "; peftkit wrote no adapter there"
        if (folder / RECORD).is_file():
            hint = "; it is a merged model, which transformers, vLLM and others load as it is"
        raise AdapterError(f"'{folder}' has no passport ({PASSPORT}){hint}")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise AdapterError(f"the passport '{path}' has more than {MOST_BYTES} bytes; fetch the adapter again")
        content = path.read_bytes()
        _require_known_version(path, content)
        passport = Passport.model_validate_json(content)
    except (ValidationError, OSError) as error:
        raise AdapterError(f"the passport '{path}' is damaged: {_complaint(error)}; fetch the adapter again") from error
    if passport.files.keys() != {WEIGHTS, PEFT_CONFIG}:
        raise AdapterError(
            f"the passport '{path}' is damaged: it must name {WEIGHTS} and {PEFT_CONFIG}, and no other file"
        )
    for name, digest in passport.files.items():
        if not (folder / name).is_file():
            raise AdapterError(f"the adapter in '{folder}' lacks {name}, which its passport names")
        if file_hash(folder / name) != digest:
            raise AdapterError(f"'{folder / name}' was changed after its passport was written; fetch the adapter again")
    return passport


def passport_schema() -> dict[str, Any]:
    """Return the passport's JSON Schema (draft 2020-12), which stands in `passport.schema.json` beside this module."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **Passport.model_json_schema(), "title": "passport of an adapter (peftkit.json)"}


def describe_difference(passport: Passport, digests: Mapping[str, str]) -> str | None:
    """Say how the weights of a base model differ from those that an adapter was trained on.

    Args:
        passport: The adapter's.
        digests: `peftkit.model.fingerprint.base_digests` of the base model.

    Returns:
        A clause such as "2 of 272 tensors differ, 'lm_head.weight' first"; None where nothing differs.
    """
    if combined(digests) == passport.base.fingerprint:
        return None
    was, now = passport.base.tensors, {name: _short(digest) for name, digest in digests.items()}
    if not was:
        return "the weights differ"
    for these, those, what in ((was, now, "lacks"), (now, was, "has besides")):
        if only := sorted(these.keys() - those.keys()):
            more = f" and {len(only) - 1} more" if len(only) > 1 else ""
            return f"it {what} '{only[0]}'{more}"
    wrong = sorted(name for name, digest in was.items() if now[name] != digest)
    return f"{len(wrong)} of {len(was)} tensors differ, '{wrong[0]}' first" if wrong else "the weights differ"


def short_digests(digests: Mapping[str, str]) -> dict[str, str]:
    """Return what a passport keeps of each tensor's sha256."""
    return {name: _short(digest) for name, digest in sorted(digests.items())}


def _short(digest: str) -> str:
    return digest[:16]


def _require_known_version(path: Path, content: bytes) -> None:
    try:
        version = json.loads(content).get("schema_version")
    except (ValueError, AttributeError, RecursionError):
        return  # what is wrong is said where all of it is read
    newest = Passport.model_fields["schema_version"].default
    if isinstance(version, int) and version > newest:
        raise AdapterError(
            f"the passport '{path}' was written by a newer peftkit (its version is {version}, this one reads up to "
            f"{newest}); update peftkit"
        )


def _complaint(error: ValidationError | OSError) -> str:
    if isinstance(error, OSError):
        return str(error.strerror)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))} {first['msg']}".strip()


def file_hash(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
