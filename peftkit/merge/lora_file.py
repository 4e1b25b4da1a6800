"""A LoRA adapter as what it changes: for each module the factors of its change, read strictly and written plainly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.adapter.attach import read_files, write_files
from peftkit.adapter.int8_file import INT8_METADATA, pack_int8
from peftkit.adapter.passport import PASSPORT, Passport, read_passport
from peftkit.errors import AdapterError
from peftkit.merge.given import adapter_folder
from peftkit.merge.low_rank import Factors

if TYPE_CHECKING:
    import torch

PREFIX = "base_model.model."
_FACTORS = {
    ".lora_A.weight": ("a", False),
    ".lora_B.weight": ("b", False),
    ".lora_embedding_A": ("a", True),
    ".lora_embedding_B": ("b", True),
}
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
"""Starts after which an adapter is a plain LoRA of the unchanged base."""
_REFUSED = {
    "use_dora": "DoRA, whose change depends on the base weights; merge it into its base instead",
    "lora_bias": "LoRA with a bias of its own (lora_bias), which two factors cannot hold; train it without",
    "target_parameters": "LoRA on bare parameters (target_parameters), whose names it does not hold; merge it instead",
    "layer_replication": "LoRA on repeated layers (layer_replication), which fits no other base; merge it instead",
    "ensure_weight_tying": "LoRA on tied weights (ensure_weight_tying), which holds one side only; train it without",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens), which changes no weight",
    **{
        name: f"a kind of LoRA ({name}) whose change is not the product of its factors alone; keep it as it is"
        for name in ("arrow_config", "use_qalora", "use_bdlora", "kasa_config", "monteclora_config", "velora_config")
    },
}


@dataclass(frozen=True)
class Change:
    """What an adapter adds to the weight of one module: scale B A, as PEFT holds it.

    Attributes:
        factors: B of shape (out, r) and A of shape (r, in), as in the file but float32; of an embedding, out is the
            size of its vectors and in the vocabulary.
        scale: alpha / r, or alpha / sqrt(r).
        embedding: Whether the module is an embedding, whose tensors have other names.
    """

    factors: Factors
    scale: float
    embedding: bool = False

    @property
    def scaled(self) -> Factors:
        """The change with its scale folded into B, in float64."""
        return Factors(self.factors.b.double() * self.scale, self.factors.a.double())


@dataclass(frozen=True)
class LoraFile:
    """A LoRA adapter that was read.

    Attributes:
        folder: Where it was.
        settings: PEFT's configuration.
        changes: The change of each module, by the module's name in the base model.
        whole: Tensors that stand in for the base's own: modules_to_save and trained tokens, by their names in the file.
        passport: What peftkit wrote beside it, where there is any.
        warnings: What a user should know of it.
    """

    folder: Path
    settings: dict[str, Any]
    changes: dict[str, Change]
    whole: dict[str, torch.Tensor] = field(default_factory=dict)
    passport: Passport | None = None
    warnings: tuple[str, ...] = ()


def read_lora(folder: Path) -> LoraFile:
    """Read a LoRA adapter.

    Args:
        folder: The adapter's folder, or that of the run that wrote it.

    Raises:
        AdapterError: It is no LoRA, or one whose change is not the product of two factors; a tensor is missing, of the
            wrong shape, not finite or of no known use; or its passport names other files.
    """
    folder = adapter_folder(folder)
    passport = read_passport(folder) if (folder / PASSPORT).is_file() else None
    settings, state = read_files(folder)
    if reason := why_not_plain(settings):
        raise AdapterError(f"the adapter in '{folder}' {reason}")
    changes: dict[str, dict[str, torch.Tensor]] = {}
    embeddings: set[str] = set()
    whole: dict[str, torch.Tensor] = {}
    left_out: list[str] = []
    for name, tensor in state.items():
        _require_finite(folder, name, tensor)
        ending = next((one for one in _FACTORS if name.endswith(one)), None)
        if ending is not None and name.startswith(PREFIX):
            part, is_embedding = _FACTORS[ending]
            module = name.removeprefix(PREFIX).removesuffix(ending)
            changes.setdefault(module, {})[part] = tensor.float()
            embeddings |= {module} if is_embedding else set()
        elif ".base_layer." in name:
            left_out.append(name)
        elif _is_of_tokens(name, settings) or is_saved_whole(name.removeprefix(PREFIX).rpartition(".")[0], settings):
            whole[name] = tensor
        else:
            raise AdapterError(
                f"the adapter in '{folder}' holds '{name}', which is neither a factor of LoRA nor part of a module "
                "that it names in modules_to_save; it cannot be changed here"
            )
    if not changes:
        raise AdapterError(f"the adapter in '{folder}' holds no LoRA factors; fetch it again")
    warnings = [
        f"'{folder}' also holds weights of the base model ('{left_out[0]}'), which are left out: the base has them"
        for _ in left_out[:1]
    ]
    return LoraFile(
        folder,
        settings,
        {name: _change(folder, name, changes[name], settings, name in embeddings) for name in sorted(changes)},
        whole,
        passport,
        tuple(warnings),
    )


def write_lora(
    folder: Path,
    changes: Mapping[str, Change],
    settings: Mapping[str, Any],
    whole: Mapping[str, torch.Tensor],
    *,
    int8: bool = False,
) -> dict[str, Any]:
    """Write changes as a plain LoRA: alpha / r, the most frequent rank as `r`, and patterns for the others.

    Args:
        folder: Where to.
        changes: The change of each module; factors are written in the dtype that they have.
        settings: PEFT's configuration, of which everything but ranks and scales is kept.
        whole: Tensors of modules that are saved as a whole, by their names in a file.
        int8: Whether factors are packed (`peftkit.adapter.int8_file`), so that only peftkit reads them.

    Returns:
        The configuration as it was written.
    """
    state = dict(whole)
    for name, change in changes.items():
        a, b = (".lora_embedding_A", ".lora_embedding_B") if change.embedding else (".lora_A.weight", ".lora_B.weight")
        state[f"{PREFIX}{name}{a}"] = change.factors.a
        state[f"{PREFIX}{name}{b}"] = change.factors.b
    written = {**settings, **_ranks(changes), "use_rslora": False, "init_lora_weights": True, "eva_config": None}
    if int8:
        state, written = pack_int8(state, written)
    write_files(folder, state, written, INT8_METADATA if int8 else {})
    return written


def _ranks(changes: Mapping[str, Change]) -> dict[str, Any]:
    ranks = Counter(change.factors.rank for change in changes.values())
    r = max(ranks, key=lambda rank: (ranks[rank], rank))
    # Nearly always scale is one, and alpha is the rank.
    alphas = {name: _whole_number(change.scale * change.factors.rank) for name, change in changes.items()}
    usual = Counter(alphas[name] for name, change in changes.items() if change.factors.rank == r)
    alpha = max(usual, key=lambda value: (usual[value], value))
    return {
        "r": r,
        "lora_alpha": alpha,
        "rank_pattern": {
            _pattern(name, changes): change.factors.rank for name, change in changes.items() if change.factors.rank != r
        },
        "alpha_pattern": {_pattern(name, changes): alphas[name] for name in changes if alphas[name] != alpha},
    }


def _pattern(name: str, changes: Mapping[str, Change]) -> str:
    """Return a key that PEFT matches with this module alone: it also takes a key for the end of a longer name."""
    return f"^{name}" if any(other.endswith(f".{name}") for other in changes) else name


def _whole_number(value: float) -> int | float:
    return int(value) if value == int(value) else value


def why_not_plain(settings: Mapping[str, Any]) -> str | None:
    """Say why the change of an adapter is not the product of two factors; None where it is.

    Args:
        settings: PEFT's configuration.

    Returns:
        What follows "the adapter", with what to do instead.
    """
    kind = settings.get("peft_type")
    if kind != "LORA":
        return f"is of the kind {kind}, not LoRA; train it with adapter.save_as_lora, or merge it into its base"
    for name, reason in _REFUSED.items():
        if settings.get(name):
            return f"is {reason}"
    if settings.get("bias") not in (None, "none"):
        return (
            f"was trained with the base's biases (bias={settings['bias']}), which two factors cannot hold; train it "
            "with bias=none"
        )
    start = settings.get("init_lora_weights")
    if start not in _STARTS:
        return (
            f"was started with init_lora_weights={start}, for which PEFT changes the base weights; save it for the "
            "unchanged base first (PEFT's path_initial_model_for_weight_conversion)"
        )
    return None


def _require_finite(folder: Path, name: str, tensor: torch.Tensor) -> None:
    if not tensor.is_floating_point() or not bool(tensor.float().isfinite().all()):
        held = "values that are not finite" if tensor.is_floating_point() else f"{tensor.dtype} values"
        raise AdapterError(f"the adapter in '{folder}' holds {held} in '{name}'; its training failed, or it is damaged")


def is_saved_whole(module: str, settings: Mapping[str, Any]) -> bool:
    """Whether a module is in one that modules_to_save names; PEFT goes by the end of the module's name."""
    parts = module.split(".")
    around = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return any(one.endswith(named) for named in settings.get("modules_to_save") or () for one in around)


def _is_of_tokens(name: str, settings: Mapping[str, Any]) -> bool:
    return "trainable_tokens_" in name and bool(settings.get("trainable_token_indices"))


def _change(
    folder: Path, name: str, parts: Mapping[str, torch.Tensor], settings: Mapping[str, Any], embedding: bool
) -> Change:
    if len(parts) < 2:
        raise AdapterError(f"the adapter in '{folder}' lacks a factor of '{name}'; fetch it again")
    rank = _of_module(folder, name, "rank_pattern", "r", settings)
    alpha = _of_module(folder, name, "alpha_pattern", "lora_alpha", settings)
    a, b = parts["a"], parts["b"]
    if a.ndim != 2 or b.ndim != 2 or not a.shape[0] == b.shape[1] == rank:
        raise AdapterError(
            f"the adapter in '{folder}' has factors of '{name}' of the shapes {tuple(b.shape)} and {tuple(a.shape)}, "
            f"which are no matrices of its rank {rank:g}; fetch it again"
        )
    scale = alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank
    return Change(Factors(b, a), scale, embedding)


def _of_module(folder: Path, name: str, pattern: str, usual: str, settings: Mapping[str, Any]) -> float:
    """Return a module's rank or alpha, looked up as PEFT does."""
    from peft.utils.other import get_pattern_key

    own = settings.get(pattern) or {}
    value = own.get(get_pattern_key(own.keys(), name), settings.get(usual))
    if not isinstance(value, int | float) or not math.isfinite(value) or (usual == "r" and value < 1):
        raise AdapterError(
            f"the adapter in '{folder}' has {usual}={value} for '{name}'; its adapter_config.json is damaged"
        )
    return value
