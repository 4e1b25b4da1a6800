"""An adapter's files as they can be shared: what older readers take, without places and secrets of this machine."""

from __future__ import annotations

import json
from pathlib import Path

from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
from peftkit.adapter.card import CARD, checked_card, is_made_card
from peftkit.adapter.passport import PASSPORT, Passport, file_hash, read_passport, write_passport
from peftkit.adapter.peft_file import read_peft_settings
from peftkit.adapter.plain_settings import plain_settings, unknown_settings
from peftkit.errors import AdapterError
from peftkit.rundir import write_json, write_text
from peftkit.share.archive import NAMES, TOKENIZER_FILES
from peftkit.share.secrets import secrets_in, texts_of, without_folder, without_folders
from peftkit.share.staged import ALLOWED, SIGNATURE, require_size

_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")
_BINARY = (".model",)


def make_portable(folder: Path, where: Path) -> list[str]:
    """Rewrite the files of a copy of an adapter as they can be shared; the weights stay.

    Args:
        folder: The copy; its passport, if it has one, fits its files.
        where: The adapter's own folder, which messages name.

    Returns:
        The names of settings that this PEFT does not know.

    Raises:
        AdapterError: A file is damaged, or holds what must not be shared.
    """
    settings = read_peft_settings(folder / PEFT_CONFIG)
    passport = read_passport(folder) if (folder / PASSPORT).is_file() else None
    card = card_of(folder, passport, settings.get("base_model_name_or_path"))
    kept = plain_settings(settings)
    write_json(folder / PEFT_CONFIG, without_folders(dict(sorted(kept.items()))))
    for name, content in tokenizer_files(folder).items():
        (folder / name).write_bytes(content)
    if passport is not None:
        hashes = {name: file_hash(folder / name) for name in (WEIGHTS, PEFT_CONFIG)}
        passport = portable_passport(passport).model_copy(update={"files": hashes})
        write_passport(folder, passport)
    if card is not None:
        write_text(folder / CARD, card)
    elif passport is not None:
        (folder / CARD).unlink(missing_ok=True)
        write_text(folder / CARD, checked_card(folder, passport))
    require_no_secrets(folder, where)
    return unknown_settings(kept)


def portable_passport(passport: Passport) -> Passport:
    """Return a passport that says of folders only what they are called."""
    return Passport.model_validate_json(json.dumps(without_folders(json.loads(passport.model_dump_json()))))


def card_of(folder: Path, passport: Passport | None, base: str | None) -> str | None:
    """Return an adapter's card: its own; None for one that peftkit would write anew, or where there is none.

    Args:
        folder: The adapter's folder.
        passport: Its passport, from which peftkit writes a card.
        base: The base model as the adapter names it; PEFT's own card names a folder in full, which is shortened.
    """
    if not (folder / CARD).is_file():
        return None
    own = read_text(folder / CARD)
    if base is not None and without_folder(base) != base:
        own = own.replace(base, without_folder(base))
    return None if passport is not None and is_made_card(folder / CARD) else own


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a tokenizer beside an adapter, by name; in those that hold settings, paths are shortened."""
    found: dict[str, bytes] = {}
    for name in TOKENIZER_FILES:
        if not (folder / name).is_file():
            continue
        if name.endswith(_BINARY):
            found[name] = _read(folder / name)
            continue
        text = read_text(folder / name)
        if name.endswith(".json") and name not in _VOCABULARIES:
            try:
                text = json.dumps(without_folders(json.loads(text)), indent=2, ensure_ascii=False) + "\n"
            except (ValueError, RecursionError) as error:
                raise AdapterError(f"'{folder / name}' is no JSON; mend it, or take it out") from error
        found[name] = text.encode()
    return found


def require_no_secrets(folder: Path, where: Path) -> None:
    """Refuse a copy of an adapter that holds keys, mail addresses, passwords or folders of a person.

    A vocabulary is made of pieces of many texts and is not looked into.

    Args:
        folder: The copy.
        where: The adapter's own folder.

    Raises:
        AdapterError: It does; the message names file and place, and not the value.
    """
    # What a card repeats is named where it comes from.
    for file in sorted(folder.iterdir(), key=lambda one: (one.suffix != ".json", one.name)):
        if file.name in (*_VOCABULARIES, WEIGHTS, SIGNATURE) or file.name.endswith(_BINARY):
            continue
        text = read_text(file)
        parts = texts_of(json.loads(text)) if file.name.endswith(".json") else _lines(text)
        for place, part in parts:
            if kinds := secrets_in(part):
                raise AdapterError(
                    f"'{where}' is not shared: {file.name} holds what must not be shared ({kinds[0]}, {place}); take "
                    "it out there"
                )


def _lines(text: str) -> list[tuple[str, str]]:
    return [(f"line {number}", line) for number, line in enumerate(text.splitlines(), 1)]


def read_text(file: Path) -> str:
    """Read one of an adapter's smaller files.

    Raises:
        AdapterError: It is too large, cannot be read, or is no UTF-8.
    """
    try:
        return _read(file).decode("utf-8")
    except UnicodeDecodeError as error:
        raise AdapterError(f"'{file}' is no UTF-8 text; save it as such, or take it out") from error


def _read(file: Path) -> bytes:
    try:
        require_size(f"'{file}'", file.stat().st_size, ALLOWED[file.name])
        return file.read_bytes()
    except OSError as error:
        raise AdapterError(f"'{file}' cannot be read: {error.strerror}") from error


def shared_names(folder: Path) -> list[str]:
    """Return the names of what stands in an adapter's folder and is not shared."""
    return sorted(one.name for one in folder.iterdir() if one.name not in (*NAMES, PEFT_CONFIG, PASSPORT))
