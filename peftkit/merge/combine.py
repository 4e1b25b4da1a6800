"""Combine LoRA adapters of one base: add their changes exactly, or after most entries of each were dropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from peftkit.adapter.passport import MadeFrom
from peftkit.errors import ConfigError
from peftkit.merge.derived import (
    adapter_bytes,
    describe_ranks,
    parent_of,
    ranks_in_words,
    target_settings,
    write_derived,
)
from peftkit.merge.given import Weighted
from peftkit.merge.lora_file import Change, LoraFile, read_lora
from peftkit.merge.low_rank import Decomposed, Factors, decompose, decompose_dense, weighted_sum
from peftkit.merge.sparse import SPARSE, seed_of
from peftkit.merge.together import carrier_of, require_one_base, shared_passport
from peftkit.rundir import require_new
from peftkit.ui import UI, percent

METHODS = ("linear", "cat", "svd", *SPARSE)
DENSITY = 0.5


def combine(
    adapters: Sequence[Weighted],
    out: Path,
    *,
    method: str = "linear",
    rank: int | None = None,
    density: float | None = None,
    seed: int = 0,
    ui: UI | None = None,
) -> dict[str, Any]:
    """Combine LoRA adapters into a plain LoRA, whose change of each module is made of the exact ones, scale B A.

    linear and cat give the weighted sum itself, linear with the least rank that holds it, cat with all factors as they
    are. svd cuts the sum to a rank. ties, dare and magnitude_prune (`peftkit.merge.sparse`) work on dense changes, and
    are cut to a rank after that.

    Args:
        adapters: What is combined.
        out: Folder of the new adapter, which must not exist.
        method: One of `METHODS`.
        rank: Rank of a cut; by default the largest that an adapter has for the module.
        density: Share of the entries that ties, dare and magnitude_prune keep; `DENSITY` by default.
        seed: Of what dare drops, and of the approximate decomposition of large matrices.
        ui: Where warnings and the result are said.

    Returns:
        What was done: ranks, the share of the change's squared norm that was kept, in all and per module, and bytes.

    Raises:
        ConfigError: The method, rank or density is not usable.
        AdapterError: An adapter cannot be combined, or they do not go together.
        OutputError: The folder exists or cannot be written.
    """
    ui = ui or UI(quiet=True)
    _require_usable(adapters, method, rank, density)
    require_new(out)
    files = [read_lora(one.folder) for one in adapters]
    weights = [one.weight for one in adapters]
    warnings = [text for file in files for text in file.warnings] + require_one_base(files)
    for text in warnings:
        ui.warn(text)
    carrier = carrier_of(files, weights)
    density = DENSITY if density is None and method in SPARSE else density
    changes: dict[str, Change] = {}
    shares: dict[str, float] = {}
    energy = kept = 0.0
    modules = sorted(set().union(*(file.changes for file in files)))
    with ui.progress("modules", len(modules)) as bar:
        for number, name in enumerate(modules, 1):
            made = _combined(name, list(_terms(name, files, weights)), method, rank, density, seed)
            changes[name], whole_energy, part = made
            shares[name] = part / whole_energy if whole_energy else 1.0
            energy, kept = energy + whole_energy, kept + part
            bar.to(number)
    share = min(1.0, kept / energy) if energy else 1.0
    asked = {"method": method, "rank": rank, "density": density, "seed": seed if method in SPARSE else None}
    made_from = MadeFrom(
        change="combine",
        parents=tuple(parent_of(file, weight) for file, weight in zip(files, weights, strict=True)),
        settings={name: value for name, value in asked.items() if value is not None},
        energy_kept=share,
    )
    settings = {
        **files[0].settings,
        **target_settings(files, modules),
        **{name: carrier.settings.get(name) for name in ("modules_to_save", "trainable_token_indices", "task_type")},
    }
    passport = shared_passport(files)
    write_derived(out, changes, settings, carrier.whole, passport, made_from)
    ranks = describe_ranks(changes)
    ui.say(f"{out}: {len(files)} adapters by {method}, {len(changes)} modules, {ranks_in_words(ranks)}")
    if method not in ("linear", "cat"):
        ui.say(f"{percent(share)} of the combined change (squared norm) are kept")
    return {
        "out": str(out),
        **made_from.model_dump(),
        "ranks": ranks,
        "modules": {
            name: {"rank": change.factors.rank, "energy_kept": shares[name]} for name, change in changes.items()
        },
        "bytes": adapter_bytes(out),
        "passport": passport is not None,
        "warnings": warnings,
    }


def _terms(name: str, files: Sequence[LoraFile], weights: Sequence[float]) -> Iterator[tuple[float, Change]]:
    return ((weight, file.changes[name]) for file, weight in zip(files, weights, strict=True) if name in file.changes)


def _combined(
    name: str,
    terms: Sequence[tuple[float, Change]],
    method: str,
    rank: int | None,
    density: float | None,
    seed: int,
) -> tuple[Change, float, float]:
    """Return the combined change of one module, its squared norm before a cut, and what of that was kept."""
    import torch

    embedding = terms[0][1].embedding
    largest = rank or max(change.factors.rank for _, change in terms)
    if method in SPARSE:
        assert density is not None
        dense = ((weight, change.scaled.dense()) for weight, change in terms)
        own_seed = seed_of(seed, name)
        found = decompose_dense(SPARSE[method](dense, density, own_seed), largest, own_seed)
        return _cut(found, largest, embedding)
    stacked = weighted_sum([(weight, change.scaled) for weight, change in terms])
    if method == "cat":
        energy = 1.0  # nothing is cut
        return Change(Factors(stacked.b.to(torch.float32), stacked.a.to(torch.float32)), 1.0, embedding), energy, energy
    found = decompose(stacked)
    return _cut(found, found.numerical_rank if method == "linear" else min(largest, found.numerical_rank), embedding)


def _cut(found: Decomposed, rank: int, embedding: bool) -> tuple[Change, float, float]:
    factors = found.cut(rank)
    return Change(Factors(factors.b.float(), factors.a.float()), 1.0, embedding), found.energy, found.kept(rank)


def _require_usable(adapters: Sequence[Weighted], method: str, rank: int | None, density: float | None) -> None:
    if not adapters:
        raise ConfigError("there is nothing to combine; give one or more adapters and then the folder to write")
    if method not in METHODS:
        raise ConfigError(f"--method {method} is not one of {', '.join(METHODS)}")
    if rank is not None and method in ("linear", "cat"):
        raise ConfigError(f"--rank is for methods that cut, and {method} keeps the whole sum; take --method svd")
    if rank is not None and rank < 1:
        raise ConfigError(f"--rank {rank} is no rank; give 1 or more")
    if density is not None and method not in SPARSE:
        raise ConfigError(f"--density is for {', '.join(SPARSE)}, and {method} drops nothing; leave it out")
    if density is not None and not 0 < density <= 1:
        raise ConfigError(f"--density {density:g} is no share of the entries; give one above 0 and up to 1")
