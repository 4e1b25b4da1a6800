"""What is shared of an adapter: files on an allow-list, each within a size, with a passport that fits them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
from peftkit.adapter.card import CARD, checked_card
from peftkit.adapter.passport import PASSPORT, Passport, file_hash, read_passport
from peftkit.adapter.peft_file import read_peft_settings
from peftkit.errors import AdapterError, ModelError
from peftkit.model.weight_files import read_weight_file
from peftkit.rundir import write_text
from peftkit.ui import size

SIGNATURE = "model.sig"
"""Signs all other files of the folder: where it is, no card is written or changed."""
_MIB = 1 << 20
ALLOWED: Mapping[str, int] = {
    PASSPORT: 16 * _MIB,
    PEFT_CONFIG: 4 * _MIB,
    WEIGHTS: 16384 * _MIB,
    CARD: 4 * _MIB,
    "chat_template.jinja": 1 * _MIB,
    "tokenizer.json": 128 * _MIB,
    "tokenizer.model": 128 * _MIB,
    "spiece.model": 128 * _MIB,
    "sentencepiece.bpe.model": 128 * _MIB,
    "tokenizer_config.json": 16 * _MIB,
    "special_tokens_map.json": 1 * _MIB,
    "added_tokens.json": 16 * _MIB,
    "vocab.json": 64 * _MIB,
    "vocab.txt": 64 * _MIB,
    "merges.txt": 64 * _MIB,
    SIGNATURE: 1 * _MIB,
}
"""The names of files that an adapter may have where it is shared, and the most bytes of each."""

REQUIRED = (PASSPORT, PEFT_CONFIG, WEIGHTS)
"""Without these it is no adapter."""


def stage_for_sharing(adapter: Path, folder: Path) -> Passport:
    """Copy what is shared of an adapter into a new folder, and check that it is a whole adapter.

    A card that is missing is written; files that are not on the list stay behind.

    Args:
        adapter: The adapter's own folder.
        folder: The folder to make.

    Raises:
        AdapterError: The adapter is damaged or incomplete, or a file of it is a link or too large.
    """
    passport = read_passport(adapter)
    folder.mkdir(parents=True)
    for name, most in ALLOWED.items():
        path = adapter / name
        if path.is_symlink():
            raise AdapterError(f"'{path}' is a link; copy the adapter to a folder of its own, and share that")
        if path.is_file():
            require_size(str(path), path.stat().st_size, most)
            shutil.copyfile(path, folder / name)
    if not (folder / CARD).exists() and not (folder / SIGNATURE).exists():
        write_text(folder / CARD, checked_card(folder, passport))
    return check_adapter(folder)


def check_adapter(folder: Path) -> Passport:
    """Check that a folder holds a whole adapter: its passport fits its files, and these are what they should be.

    Raises:
        AdapterError: It does not.
    """
    passport = read_passport(folder)
    try:
        read_peft_settings(folder / PEFT_CONFIG)
        read_weight_file(folder / WEIGHTS)
    except (OSError, ModelError) as error:
        raise AdapterError(f"the adapter in '{folder}' is damaged: {error}") from error
    return passport


def require_size(what: str, found: int, most: int) -> None:
    """Refuse a file that is larger than its kind may be.

    Raises:
        AdapterError: It is.
    """
    if found > most:
        raise AdapterError(f"{what} has {size(found)}, and at most {size(most)} are taken; look at what it holds")


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file of a staged folder, by name."""
    return {path.name: file_hash(path) for path in sorted(folder.iterdir())}
