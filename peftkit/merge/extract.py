"""A LoRA adapter from the difference of two checkpoints, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.config import ModelConfig
from peftkit.errors import ConfigError, ModelError
from peftkit.merge.derived import adapter_bytes, describe_ranks, ranks_in_words
from peftkit.merge.lora_file import PREFIX, Change, write_lora
from peftkit.merge.low_rank import Factors, decompose_dense
from peftkit.merge.sparse import seed_of
from peftkit.merge.two_models import Place, TwoModels
from peftkit.model.load import find_model
from peftkit.rundir import atomic_folder, require_new
from peftkit.ui import UI, percent

if TYPE_CHECKING:
    import torch

NAMED = 3
"""Tensors that a warning names; the report names all."""
_TASKS = {"ForCausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM", "ForConditionalGeneration": "SEQ_2_SEQ_LM"}


@dataclass
class _Extracted:
    changes: dict[str, Change] = field(default_factory=dict)
    whole: dict[str, torch.Tensor] = field(default_factory=dict)
    modules: dict[str, dict[str, Any]] = field(default_factory=dict)
    left: list[Place] = field(default_factory=list)
    energy: float = 0.0
    kept: float = 0.0


def extract(
    base: str,
    tuned: str,
    out: Path,
    *,
    rank: int,
    modules: Sequence[str] = (),
    full: bool = False,
    seed: int = 0,
    ui: UI | None = None,
) -> dict[str, Any]:
    """Write the LoRA adapter of a rank that comes nearest to what was tuned.

    Of each linear layer that changed, the difference is cut to the rank by a singular value decomposition (exact for
    small matrices, else at random, arXiv 0909.4061). Memory is a few times the largest tensor in float32, and the
    adapter.

    Args:
        base: Folder, embedded name or hub id (in the cache) of the base model.
        tuned: The same of the tuned model.
        out: Folder of the adapter, which must not exist.
        rank: Largest rank of a module.
        modules: Names, or ends of names, of the modules that are looked at; by default all linear layers. Embeddings
            are LoRA only if they are named; those that are tied to the output get one on both sides.
        full: Carry whatever else changed as whole modules, where PEFT can.
        seed: Of the approximate decomposition.
        ui: Where progress, warnings and the result are said.

    Returns:
        Ranks, the share of the squared norm that was kept, in all and per module, and what is not carried.

    Raises:
        ConfigError: The rank is not usable, or a name of `modules` is that of no layer.
        ModelError: A model cannot be had, the two do not fit, or nothing changed that can be carried.
        OutputError: The folder exists or cannot be written.
    """
    ui = ui or UI(quiet=True)
    if rank < 1:
        raise ConfigError(f"--rank {rank} is no rank; give 1 or more")
    require_new(out)
    sources = [find_model(ModelConfig(path=path), ui.note) for path in (base, tuned)]
    two = TwoModels(*sources)
    _require_known(modules, two)
    found = _Extracted()
    with ui.progress("tensors", len(two.places)) as bar:
        for number, place in enumerate(two.places, 1):
            if two.is_changed(place.tensor):
                if _is_taken(place, modules, two):
                    _take(found, place, two, rank, seed)
                else:
                    found.left.append(place)
            bar.to(number)
    carried = _carry_whole(found, two) if full else []
    left = sorted(
        {f"{one.module}.{one.parameter}" for one in found.left}
        | {name for name in two.unplaced if two.is_changed(name)}
    )
    if not found.changes:
        raise ModelError(_nothing(base, tuned, left))
    if left:
        more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
        how = "PEFT cannot hold them" if full else "--full carries what PEFT can hold"
        ui.warn(f"these changed and are not in the adapter: {', '.join(left[:NAMED])}{more}; {how}")
    with atomic_folder(out) as folder:
        write_lora(folder, found.changes, _settings(base, found, two, carried), found.whole)
    ranks = describe_ranks(found.changes)
    share = min(1.0, found.kept / found.energy)
    ui.say(f"{out}: {len(found.changes)} modules, {ranks_in_words(ranks)}, {len(carried)} whole modules")
    ui.say(f"{percent(share)} of the change of these modules (squared norm) are kept")
    _say_worst(ui, found)
    return {
        "out": str(out),
        "base": base,
        "tuned": tuned,
        "rank": rank,
        "ranks": ranks,
        "energy_kept": share,
        "modules": found.modules,
        "whole_modules": carried,
        "not_carried": left,
        "bytes": adapter_bytes(out),
    }


def _is_taken(place: Place, modules: Sequence[str], two: TwoModels) -> bool:
    """Whether a weight becomes LoRA: linear layers unless others are named, embeddings only if they are."""
    if place.kind == "other":
        return False
    if not modules:
        return place.kind != "embedding" and not place.tied
    sides = [one.module for one in two.places if one.tied] if place.tied else [place.module]
    return any(_is_named(module, word) for module in sides for word in modules)


def _is_named(module: str, word: str) -> bool:
    return module == word or module.endswith(f".{word}")


def _take(found: _Extracted, place: Place, two: TwoModels, rank: int, seed: int) -> None:
    """Add the best approximation of a weight's change."""
    change = two.difference(place.tensor)
    # PEFT holds B A of shape (out, in), and of an embedding (size, vocabulary); these two lie the other way round.
    matrix = change.T if place.kind in ("conv1d", "embedding") else change
    if not bool(change.isfinite().all()):
        raise ModelError(f"'{place.tensor}' holds values that are not finite in one of the two checkpoints")
    parts = decompose_dense(matrix, rank, seed_of(seed, place.module))
    own = min(rank, parts.numerical_rank)
    cut = parts.cut(own)
    factors = Factors(cut.b.float(), cut.a.float())
    found.changes[place.module] = Change(factors, 1.0, place.kind == "embedding")
    found.modules[place.module] = {
        "rank": own,
        "norm": parts.energy**0.5,
        "energy_kept": min(1.0, parts.kept(own) / parts.energy),
    }
    found.energy += parts.energy
    found.kept += parts.kept(own)


def _carry_whole(found: _Extracted, two: TwoModels) -> list[str]:
    """Add what else changed as whole modules of the tuned model, and take it off what is left; return their names."""
    names = two.modules()
    carried: list[str] = []
    for module in sorted({place.module for place in found.left}):
        parts = [place for place in two.places if place.module == module]
        is_whole = len(parts) == len(two.model.get_submodule(module).state_dict())
        # PEFT goes by the end of a name, which may be that of others too.
        is_alone = [name for name in names if name.endswith(module)] == [module]
        if module in found.changes or not is_whole or not is_alone:
            continue
        carried.append(module)
        for place in parts:
            found.whole[f"{PREFIX}{module}.{place.parameter}"] = two.tuned.read(place.tensor)
    found.left = [place for place in found.left if place.module not in carried]
    return carried


def _settings(base: str, found: _Extracted, two: TwoModels, carried: Sequence[str]) -> dict[str, Any]:
    from peft import LoraConfig

    kind = type(two.model).__name__
    settings: dict[str, Any] = LoraConfig(
        task_type=next((task for ending, task in _TASKS.items() if kind.endswith(ending)), None),
        target_modules=_targets(list(found.changes), two.modules()),
        modules_to_save=list(carried) or None,
        fan_in_fan_out=any(place.kind == "conv1d" for place in two.places),
        base_model_name_or_path=base,
    ).to_dict()
    return settings


def _targets(chosen: Sequence[str], modules: Sequence[str]) -> list[str]:
    """Return the last words of the modules' names if no other module has these, else the whole names."""
    words = {name.rpartition(".")[2] for name in chosen}
    matched = {name for name in modules if name.rpartition(".")[2] in words}
    return sorted(words) if matched == set(chosen) else sorted(chosen)


def _require_known(modules: Sequence[str], two: TwoModels) -> None:
    matrices = [place.module for place in two.places if place.kind != "other"]
    for word in modules:
        if not any(_is_named(module, word) for module in matrices):
            known = ", ".join(sorted({module.rpartition(".")[2] for module in matrices}))
            raise ConfigError(f"--modules {word} is no linear layer or embedding of the model; there are {known}")


def _nothing(base: str, tuned: str, left: Sequence[str]) -> str:
    if not left:
        return f"'{base}' and '{tuned}' have the same weights, so there is nothing to extract"
    return (
        f"no layer that was asked for differs between '{base}' and '{tuned}', only others such as '{left[0]}'; "
        "name it with --modules"
    )


def _say_worst(ui: UI, found: _Extracted) -> None:
    """Show the modules of which the rank holds least."""
    worst = sorted(found.modules.items(), key=lambda item: float(item[1]["energy_kept"]))[:5]
    ui.table(
        ("least is kept of", ">rank", ">norm of change", ">kept"),
        [(name, one["rank"], f"{one['norm']:.4g}", percent(one["energy_kept"])) for name, one in worst],
    )
