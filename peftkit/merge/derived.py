"""Writes an adapter that was made from others, with a passport that says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
from peftkit.adapter.passport import MadeFrom, Parent, Passport, file_hash, write_passport
from peftkit.merge.given import adapter_name
from peftkit.merge.lora_file import Change, LoraFile, write_lora
from peftkit.rundir import atomic_folder

if TYPE_CHECKING:
    import torch


def write_derived(
    out: Path,
    changes: Mapping[str, Change],
    settings: Mapping[str, Any],
    whole: Mapping[str, torch.Tensor],
    passport: Passport | None,
    made_from: MadeFrom,
    *,
    int8: bool = False,
) -> None:
    """Write an adapter's folder in one piece, beside where it goes and renamed at its end.

    Args:
        out: The folder, which must not exist.
        changes: The change of each module.
        settings: PEFT's configuration but for ranks and scales.
        whole: Tensors of modules that are saved as a whole.
        passport: That of the first parent; None writes none. Its evaluation is left out: it is another adapter's.
        made_from: How the adapter was made.
        int8: Whether factors are stored as integers, which only peftkit reads.

    Raises:
        OutputError: The folder exists or cannot be written; nothing is left behind then.
    """
    from peftkit.adapter.card import write_card

    with atomic_folder(out) as folder:
        write_lora(folder, changes, settings, whole, int8=int8)
        if passport is not None:
            own = passport.model_copy(
                update={
                    "before": {},
                    "after": {},
                    "difference": {},
                    "metrics": {},
                    "files": {name: file_hash(folder / name) for name in (WEIGHTS, PEFT_CONFIG)},
                    "made_from": made_from,
                }
            )
            write_passport(folder, own)
            write_card(folder, own)


def parent_of(file: LoraFile, weight: float = 1.0) -> Parent:
    """Describe an adapter that another one is made from; of a run's adapter the name is that of the run."""
    return Parent(name=adapter_name(file.folder), weights_sha256=file_hash(file.folder / WEIGHTS), weight=weight)


def describe_ranks(changes: Mapping[str, Change]) -> dict[str, Any]:
    """Return the least, the largest and the most frequent rank of the modules, and the sum of all."""
    ranks = [change.factors.rank for change in changes.values()]
    return {"least": min(ranks), "most": max(ranks), "usual": Counter(ranks).most_common(1)[0][0], "total": sum(ranks)}


def ranks_in_words(ranks: Mapping[str, Any]) -> str:
    """Say the ranks of an adapter: `rank 8`, or `ranks 2 to 8`."""
    same = ranks["least"] == ranks["most"]
    return f"rank {ranks['most']}" if same else f"ranks {ranks['least']} to {ranks['most']}"


def adapter_bytes(folder: Path) -> int:
    """Return the size of an adapter's weights in bytes."""
    return (folder / WEIGHTS).stat().st_size


def target_settings(files: Sequence[LoraFile], modules: Sequence[str]) -> dict[str, Any]:
    """Return the settings by which PEFT finds the modules of several adapters together.

    Adapters whose modules are named alike keep their words; else each module is named in full.

    Args:
        files: The adapters.
        modules: Names of all modules that one of them has.
    """
    names = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")

    def words(file: LoraFile) -> dict[str, Any]:
        given = {name: file.settings.get(name) for name in names}
        return {name: sorted(value) if isinstance(value, list) else value for name, value in given.items()}

    if all(words(file) == words(files[0]) for file in files):
        return words(files[0])
    return {**dict.fromkeys(names), "target_modules": list(modules)}
