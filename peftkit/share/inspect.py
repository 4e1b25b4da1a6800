"""Look into an adapter: what it is, what it changes and by how much, what it belongs to, and what is wrong with it."""

from __future__ import annotations

import math
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit import machine
from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS, read_files
from peftkit.adapter.methods import find_method
from peftkit.adapter.passport import PASSPORT, Passport, read_passport
from peftkit.errors import AdapterError, PeftkitError
from peftkit.export.readers import Verdict, judge_reader
from peftkit.merge.given import adapter_folder
from peftkit.merge.lora_file import LoraFile, read_lora
from peftkit.merge.low_rank import norm

if TYPE_CHECKING:
    import torch

SETTINGS = ("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "bias", "modules_to_save")
"""Settings of PEFT that are shown, where they are set."""
_LAYER = re.compile(r"\.(?:layers?|h|blocks?)\.(\d+)\.")
_RUNS_CODE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py")
_OUTLIER = 50  # times the median of the modules' changes, far beyond what one learning rate brings about


@dataclass(frozen=True)
class Module:
    """What an adapter adds to one module.

    Attributes:
        name: The module's name in the base model.
        rank: Rank of the change.
        scale: What the product of its factors is multiplied by.
        norm: Frobenius norm of the change.
    """

    name: str
    rank: int
    scale: float
    norm: float

    @property
    def layer(self) -> int | None:
        """Number of the layer that it stands in; None outside of them."""
        found = _LAYER.search(f".{self.name}.")
        return int(found[1]) if found else None


@dataclass(frozen=True)
class Inspected:
    """What there is to say of an adapter.

    Attributes:
        folder: Where it is.
        method: Its method by PEFT's name, in small letters.
        settings: The values of `SETTINGS` that are set, and the task's type.
        base: The base model as its configuration names it.
        size: Bytes of its weights' file.
        parameters: How many values it has.
        dtypes: How many of them are of which type.
        modules: What LoRA changes; empty for other methods.
        whole: Tensors that stand in for the base's own, by name.
        passport: Its passport; None where it has none, or a damaged one.
        verdicts: What the programs make of it that were asked about.
        problems: What is wrong, a sentence each.
        notes: What is good to know, a sentence each.
    """

    folder: Path
    method: str
    settings: Mapping[str, Any]
    base: str | None
    size: int
    parameters: int
    dtypes: Mapping[str, int]
    modules: tuple[Module, ...]
    whole: tuple[str, ...]
    passport: Passport | None
    verdicts: tuple[Verdict, ...] = ()
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def layers(self) -> dict[int, float]:
        """Norm of the change of each layer: the root of the sum of its modules' squares."""
        squares: Counter[int] = Counter()
        for one in self.modules:
            if one.layer is not None:
                squares[one.layer] += one.norm**2  # type: ignore[assignment]
        return {layer: math.sqrt(total) for layer, total in sorted(squares.items())}

    @property
    def norm(self) -> float | None:
        """Norm of the whole change; None where it is not known."""
        return math.hypot(*(one.norm for one in self.modules)) if self.modules else None

    def as_json(self) -> dict[str, Any]:
        """Return what is reported."""
        return {
            "folder": str(self.folder),
            "method": self.method,
            "settings": dict(self.settings),
            "base": self.base,
            "size": self.size,
            "parameters": self.parameters,
            "dtypes": dict(self.dtypes),
            "norm": self.norm,
            "modules": [
                {"name": one.name, "rank": one.rank, "scale": one.scale, "norm": one.norm} for one in self.modules
            ],
            "layers": {str(layer): size for layer, size in self.layers.items()},
            "whole": list(self.whole),
            "passport": self.passport.model_dump(mode="json") if self.passport else None,
            "readers": {
                one.reader: {"takes": one.takes, "way": one.way, "problems": one.problems, "commands": one.commands}
                for one in self.verdicts
            },
            "problems": self.problems,
            "notes": self.notes,
        }


def inspect_adapter(adapter: Path, readers: Sequence[str] = ()) -> Inspected:
    """Look into an adapter; what is wrong with it is reported, as far as it can be read at all.

    Args:
        adapter: The adapter's folder, or that of the run that wrote it.
        readers: Programs of which to say whether they take it, as `peftkit.export.readers.READERS` names them.

    Raises:
        AdapterError: It cannot be read at all.
        ConfigError: A program is not known.
    """
    machine.quiet_libraries()
    verdicts = tuple(judge_reader(adapter, reader) for reader in readers)
    folder = adapter_folder(adapter)
    settings, state = read_files(folder)
    problems: list[str] = []
    notes: list[str] = []
    passport = _passport(folder, problems, notes)
    problems += [
        f"'{name}' holds values that are not finite; the training went wrong, or the file is damaged"
        for name, tensor in state.items()
        if not tensor.isfinite().all()
    ][:1]
    lora = None if problems else _lora(folder, settings, notes)
    modules = _modules(lora)
    dtypes: Counter[str] = Counter()
    for tensor in state.values():
        dtypes[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    found = Inspected(
        folder=folder,
        method=str(settings.get("peft_type")).lower(),
        settings={name: settings[name] for name in (*SETTINGS, "task_type") if _is_set(settings.get(name))},
        base=settings.get("base_model_name_or_path"),
        size=(folder / WEIGHTS).stat().st_size,
        parameters=sum(dtypes.values()),
        dtypes=dict(dtypes.most_common()),
        modules=modules,
        whole=tuple(sorted(lora.whole)) if lora else (),
        passport=passport,
        verdicts=verdicts,
        problems=problems,
        notes=notes,
    )
    problems.extend(_problems_of_change(modules, lora))
    problems.extend(_problems_of_files(folder, settings, state))
    notes.extend(_notes_on(found))
    return found


def _is_set(value: Any) -> bool:
    return value not in (None, False, "none", [], {})


def _passport(folder: Path, problems: list[str], notes: list[str]) -> Passport | None:
    if not (folder / PASSPORT).is_file():
        notes.append(
            "it has no passport, so nothing but names and shapes says which base it belongs to: peftkit adopt gives one"
        )
        return None
    try:
        return read_passport(folder)
    except AdapterError as error:
        problems.append(str(error))
        return None


def _lora(folder: Path, settings: Mapping[str, Any], notes: list[str]) -> LoraFile | None:
    if settings.get("peft_type") != "LORA":
        return None
    try:
        return read_lora(folder)
    except PeftkitError as error:
        notes.append(f"its change is not measured: {error}")
        return None


def _modules(lora: LoraFile | None) -> tuple[Module, ...]:
    if lora is None:
        return ()
    return tuple(
        Module(name, change.factors.rank, change.scale, norm(change.scaled)) for name, change in lora.changes.items()
    )


def _problems_of_change(modules: tuple[Module, ...], lora: LoraFile | None) -> Iterator[str]:
    norms = sorted(one.norm for one in modules)
    idle = [one.name for one in modules if one.norm == 0]
    if modules and len(idle) == len(modules):
        yield "it changes nothing: every module's change is zero, as before training"
    elif idle:
        yield f"{len(idle)} of {len(modules)} modules change nothing, '{idle[0]}' first"
    if norms and (largest := max(modules, key=lambda one: one.norm)).norm > _OUTLIER * norms[len(norms) // 2] > 0:
        yield (
            f"the change of '{largest.name}' is {largest.norm / norms[len(norms) // 2]:.0f} times the median one; its "
            "scale may be wrong"
        )
    yield from lora.warnings if lora else ()


def _problems_of_files(folder: Path, settings: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> Iterator[str]:
    for file in sorted(folder.iterdir()):
        if file.suffix in _RUNS_CODE:
            yield f"'{file.name}' can run code when it is loaded, and an adapter needs no such file; remove it"
    for name in (PEFT_CONFIG, WEIGHTS):
        if not stat.S_IMODE((folder / name).stat().st_mode) & stat.S_IROTH:
            yield f"'{name}' can be read by its owner only; a server of another user needs: chmod 644 {folder / name}"
    base = str(settings.get("base_model_name_or_path") or "")
    if base.startswith(("/", "~", "..", "./")) or re.match(r"[A-Za-z]:[\\/]", base):
        yield f"it names its base by a folder of one machine, '{base}', which nobody else has"
    if not state:
        yield "its weights' file is empty"


def _notes_on(found: Inspected) -> Iterator[str]:
    if found.dtypes.get("float32", 0) > found.parameters / 2:
        yield f"in bf16 it is half as large: peftkit shrink {found.folder} OUT --dtype bf16"
    try:
        find_method(found.method)
    except ValueError:
        yield f"its method, {found.method}, is none that this peftkit can load"
