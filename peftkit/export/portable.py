"""An adapter in the form that every reader of LoRA understands alike.

Readers look up scales and ranks in different ways: some divide alpha by the rank where rsLoRA wants its root, some know
no patterns. Here nothing is left to look up: each module's scale is folded into B, all ranks are one, and alpha is the
rank, so that the scale is 1 for whoever computes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peftkit.adapter.passport import MadeFrom
from peftkit.adapter.plain_settings import plain_settings
from peftkit.errors import ConfigError
from peftkit.merge.derived import adapter_bytes, describe_ranks, parent_of, write_derived
from peftkit.merge.lora_file import Change, LoraFile, read_lora
from peftkit.merge.low_rank import Factors
from peftkit.merge.stored import stored, stored_whole
from peftkit.rundir import require_new
from peftkit.ui import UI, size

DTYPES = {"f32": "float32", "bf16": "bf16"}
"""The dtypes that it is written in, as `peftkit.merge.stored` names them; a narrow range would need scales again."""


def folded(change: Change, rank: int) -> Change:
    """Return a change of scale 1 with its scale in B, and with columns of zeros up to a rank.

    Args:
        change: Any change.
        rank: The wanted rank, at least its own.

    Returns:
        float32 factors of that rank; the product is scale B A, rounded once.
    """
    import torch

    more = rank - change.factors.rank
    a = torch.nn.functional.pad(change.factors.a.float(), (0, 0, 0, more))
    b = torch.nn.functional.pad(change.scaled.b.float(), (0, more))
    return Change(Factors(b, a), 1.0, change.embedding)


def fold_all(file: LoraFile) -> dict[str, Change]:
    """Return all changes of an adapter with one rank, the largest that it has, and scale 1."""
    rank = max(change.factors.rank for change in file.changes.values())
    return {name: folded(change, rank) for name, change in file.changes.items()}


def export_portable(adapter: Path, out: Path, *, dtype: str = "f32", ui: UI | None = None) -> dict[str, Any]:
    """Write an adapter with one rank, scale 1, and no setting that a reader could take otherwise.

    Args:
        adapter: Folder of the adapter, or of the run that wrote it.
        out: Folder of the new adapter, which must not exist.
        dtype: One of `DTYPES`.
        ui: Where warnings and the result are said.

    Returns:
        `out`, `to`, `rank`, `bytes`, `bytes_before`, whether it has a `passport`, and `warnings`.

    Raises:
        ConfigError: The dtype is none that is written.
        AdapterError: The adapter is none whose change is the product of two factors, such as DoRA.
        OutputError: The folder exists or cannot be written.
    """
    ui = ui or UI(quiet=True)
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype} is not one of {', '.join(DTYPES)}, which portable adapters are written in")
    require_new(out)
    file = read_lora(adapter)
    warnings = [*file.warnings, *_cautions(file)]
    for text in warnings:
        ui.warn(text)
    changes = {name: stored(change, DTYPES[dtype]) for name, change in fold_all(file).items()}
    made_from = MadeFrom(change="export", parents=(parent_of(file),), settings={"to": "portable", "dtype": dtype})
    whole = {name: stored_whole(tensor, DTYPES[dtype]) for name, tensor in file.whole.items()}
    write_derived(out, changes, plain_settings(file.settings), whole, file.passport, made_from)
    report = {
        "out": str(out),
        "to": "portable",
        "rank": describe_ranks(changes)["most"],
        "bytes": adapter_bytes(out),
        "bytes_before": adapter_bytes(file.folder),
        "passport": file.passport is not None,
        "warnings": warnings,
    }
    ui.say(f"{out}: rank {report['rank']}, scale 1, {dtype}; {size(report['bytes'])}")
    return report


def _cautions(file: LoraFile) -> list[str]:
    found = []
    if file.whole:
        found.append(
            f"'{file.folder}' also holds '{min(file.whole)}' as a whole, which PEFT reads and most servers do not; "
            "`peftkit merge` gives a model that every server reads"
        )
    embeddings = sorted(name for name, change in file.changes.items() if change.embedding)
    if embeddings:
        found.append(
            f"'{file.folder}' changes the embedding '{embeddings[0]}', which PEFT reads and most servers do not; "
            "`peftkit merge` gives a model that every server reads"
        )
    return found
