"""Make a LoRA adapter smaller: fewer directions in each module, fewer bits for each number, or both."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from peftkit.adapter.passport import MadeFrom
from peftkit.errors import ConfigError
from peftkit.merge.derived import adapter_bytes, describe_ranks, parent_of, ranks_in_words, write_derived
from peftkit.merge.lora_file import Change, LoraFile, read_lora
from peftkit.merge.low_rank import decompose, norm, weighted_sum
from peftkit.merge.rank_search import Ranks, cut_change, smallest_ranks
from peftkit.merge.stored import DTYPES, stored, stored_whole
from peftkit.rundir import require_new
from peftkit.ui import UI, percent, size

AUTO = "auto"
KL = 1e-4
"""Budget of `--rank auto`, in nats a token: about what storing in 8 bits costs."""


def shrink(
    adapter: Path,
    out: Path,
    *,
    dtype: str = "float32",
    rank: int | str | None = None,
    kl: float | None = None,
    ui: UI | None = None,
) -> dict[str, Any]:
    """Cut the ranks of a LoRA adapter, store it in a smaller dtype, or both.

    The cut is the best approximation of each module's change that there is at its rank (Eckart-Young). bf16, fp16 and
    fp8 (e4m3) load in plain PEFT; int8 has a scale for each row and is read by peftkit alone.

    Args:
        adapter: Folder of the adapter, or of the run that wrote it.
        out: Folder of the new adapter, which must not exist.
        dtype: One of `DTYPES`.
        rank: Largest rank of a module; `auto` finds the smallest ones within a budget, with the base model; None keeps
            them.
        kl: The budget of `auto`: largest mean KL divergence from the full adapter's answers in nats; `KL` by default.
        ui: Where progress and the result are said.

    Returns:
        Ranks and bytes before and after, the share of the squared norm that was kept, the relative error of the change
        with all rounding, and for `auto` the divergence that was measured.

    Raises:
        ConfigError: The dtype, rank or budget is not usable, or nothing would be smaller.
        AdapterError: The adapter cannot be shrunk, or not within the budget.
        OutputError: The folder exists or cannot be written.
    """
    ui = ui or UI(quiet=True)
    _require_usable(dtype, rank, kl)
    require_new(out)
    file = read_lora(adapter)
    for text in file.warnings:
        ui.warn(text)
    searched: Ranks | None = None
    if isinstance(rank, str):
        searched = smallest_ranks(file, dtype, kl if kl is not None else KL, ui)
        found, ranks = searched.found, searched.ranks
    else:
        found = {name: decompose(change.scaled) for name, change in file.changes.items()}
        ranks = {name: min(rank or change.factors.rank, change.factors.rank) for name, change in file.changes.items()}
    cut = {name: cut_change(change, found[name], ranks[name]) for name, change in file.changes.items()}
    changes = {name: stored(change, dtype) for name, change in cut.items()}
    energy = math.fsum(one.energy for one in found.values())
    kept = math.fsum(found[name].kept(change.factors.rank) for name, change in cut.items())
    made_from = MadeFrom(
        change="shrink",
        parents=(parent_of(file),),
        settings={"dtype": dtype, **({"rank": rank} if rank is not None else {})},
        energy_kept=min(1.0, kept / energy) if energy else 1.0,
        kl=searched.kl if searched else None,
    )
    whole = {name: stored_whole(tensor, dtype) for name, tensor in file.whole.items()}
    write_derived(out, changes, file.settings, whole, file.passport, made_from, int8=dtype == "int8")
    report = {
        "out": str(out),
        **made_from.model_dump(),
        "relative_error": _error(file, changes, energy),
        "ranks_before": describe_ranks(file.changes),
        "ranks": describe_ranks(changes),
        "modules": {name: {"rank": change.factors.rank} for name, change in changes.items()},
        "bytes_before": adapter_bytes(file.folder),
        "bytes": adapter_bytes(out),
        "passport": file.passport is not None,
        "warnings": list(file.warnings),
    }
    if searched:
        report |= {"positions": searched.positions, "texts": searched.texts}
    _say(ui, report)
    return report


def _require_usable(dtype: str, rank: int | str | None, kl: float | None) -> None:
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype} is not one of {', '.join(DTYPES)}")
    if (isinstance(rank, str) and rank != AUTO) or (isinstance(rank, int) and rank < 1):
        raise ConfigError(f"--rank {rank} is no rank; give 1 or more, or auto")
    if rank is None and dtype == "float32":
        raise ConfigError("nothing would be smaller; give --rank, --dtype, or both")
    if kl is not None and rank != AUTO:
        raise ConfigError("--kl is the budget of --rank auto; leave it out, or give --rank auto")
    if kl is not None and not (math.isfinite(kl) and kl > 0):
        raise ConfigError(f"--kl {kl:g} is no budget; give a number above 0, such as {KL:g}")


def _error(file: LoraFile, changes: dict[str, Change], energy: float) -> float:
    """Return |new - old| / |old| over all modules, as the new file holds them."""
    squares = [
        norm(weighted_sum([(1.0, changes[name].scaled), (-1.0, change.scaled)])) ** 2
        for name, change in file.changes.items()
    ]
    return math.sqrt(math.fsum(squares) / energy) if energy else 0.0


def _say(ui: UI, report: dict[str, Any]) -> None:
    before, after = (ranks_in_words(report[name]) for name in ("ranks_before", "ranks"))
    ui.say(f"{report['out']}: {after} (was {before}), {report['settings']['dtype']}")
    ui.say(
        f"{size(report['bytes'])} (was {size(report['bytes_before'])}); {percent(report['energy_kept'])} of the change "
        f"(squared norm) are kept, and its relative error is {report['relative_error']:.2g}"
    )
    if "positions" in report:
        ui.say(
            f"KL divergence from the full adapter: {report['kl']:.2g} nats a token, at {report['positions']} places of "
            f"{report['texts']}"
        )
