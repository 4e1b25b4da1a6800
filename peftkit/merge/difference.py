"""Compare two LoRA adapters by what they change, through their factors alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.adapter.attach import WEIGHTS
from peftkit.adapter.passport import Passport, file_hash
from peftkit.merge.lora_file import PREFIX, Change, LoraFile, read_lora
from peftkit.merge.low_rank import inner, norm, weighted_sum
from peftkit.merge.together import require_one_shape
from peftkit.ui import UI

if TYPE_CHECKING:
    import torch

SAME = 1e-6
"""Relative difference up to which two changes are the same in float32."""
SHOWN = 20
"""Modules in the table; JSON holds them all."""


@dataclass(frozen=True)
class Compared:
    """Two matrices A and B compared, or all of two adapters.

    Attributes:
        norms: Frobenius norms of A and B.
        product: Sum of the products of their entries.
        distance: Frobenius norm of A - B.
        ranks: Ranks of A and B, 0 where an adapter does not have the module; None for whole modules and totals.
    """

    norms: tuple[float, float]
    product: float
    distance: float
    ranks: tuple[int, int] | None = None

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between A and B; None where one of them is zero."""
        size = self.norms[0] * self.norms[1]
        return max(-1.0, min(1.0, self.product / size)) if size else None

    @property
    def relative(self) -> float:
        """|A - B| / max(|A|, |B|): 0 for the same, 1 where one is zero, 2 for opposites."""
        largest = max(self.norms)
        return self.distance / largest if largest else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return what is reported."""
        ranks = {} if self.ranks is None else {"ranks": list(self.ranks)}
        return {
            **ranks,
            "norms": list(self.norms),
            "cosine": self.cosine,
            "distance": self.distance,
            "relative_difference": self.relative,
        }


def compare_adapters(first: Path, second: Path, *, ui: UI | None = None) -> dict[str, Any]:
    """Compare two LoRA adapters: what each changes, and the settings and passports that differ.

    Args:
        first: Folder of an adapter or of a run, A.
        second: Another one, B.
        ui: Where the comparison is shown.

    Returns:
        `same` (`files`, `change` or None), the comparison of each module, of whole modules and in total, and pairs of
        what differs in settings and passports.

    Raises:
        AdapterError: One is no LoRA whose change is the product of its factors, or a module has two shapes.
    """
    ui = ui or UI(quiet=True)
    a, b = read_lora(first), read_lora(second)
    for text in (*a.warnings, *b.warnings):
        ui.warn(text)
    require_one_shape(a, b)
    modules = {
        name: _compare(a.changes.get(name), b.changes.get(name)) for name in sorted(a.changes.keys() | b.changes.keys())
    }
    whole = {
        name.removeprefix(PREFIX): _compare_whole(a.whole.get(name), b.whole.get(name))
        for name in sorted(a.whole.keys() | b.whole.keys())
    }
    total = _total(modules.values())
    settings = _differing(a.settings, b.settings)
    report = {
        "a": str(a.folder),
        "b": str(b.folder),
        "same": _sameness(a, b, total, whole, settings),
        "total": total.as_json(),
        "modules": {name: one.as_json() for name, one in modules.items()},
        "whole_modules": {name: one.as_json() for name, one in whole.items()},
        "settings": settings,
        "passports": _passports(a.passport, b.passport),
    }
    _show(ui, report, modules, whole, total)
    return report


def _compare(a: Change | None, b: Change | None) -> Compared:
    terms = [(sign, one.scaled) for sign, one in ((1.0, a), (-1.0, b)) if one is not None]
    return Compared(
        (norm(a.scaled) if a else 0.0, norm(b.scaled) if b else 0.0),
        inner(a.scaled, b.scaled) if a and b else 0.0,
        norm(weighted_sum(terms)),
        (a.factors.rank if a else 0, b.factors.rank if b else 0),
    )


def _compare_whole(a: torch.Tensor | None, b: torch.Tensor | None) -> Compared:
    """Compare tensors that stand in for the base's; of two shapes, as it is for new tokens, nothing is shared."""
    sizes = tuple(float(one.double().norm()) if one is not None else 0.0 for one in (a, b))
    norms = sizes[0], sizes[1]
    if a is None or b is None or a.shape != b.shape:
        return Compared(norms, 0.0, math.hypot(*norms))
    return Compared(norms, float((a.double() * b.double()).sum()), float((a.double() - b.double()).norm()))


def _total(modules: Iterable[Compared]) -> Compared:
    found = list(modules)
    return Compared(
        (math.hypot(*(one.norms[0] for one in found)), math.hypot(*(one.norms[1] for one in found))),
        math.fsum(one.product for one in found),
        math.hypot(*(one.distance for one in found)),
    )


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return both values of each setting that differs; an absent one is null, as PEFT reads it."""

    def plain(value: Any) -> Any:
        return sorted(value, key=str) if isinstance(value, list) else value

    pairs = {name: [a.get(name), b.get(name)] for name in sorted(a.keys() | b.keys())}
    return {name: pair for name, pair in pairs.items() if plain(pair[0]) != plain(pair[1])}


def _sameness(
    a: LoraFile, b: LoraFile, total: Compared, whole: Mapping[str, Compared], settings: Mapping[str, Any]
) -> str | None:
    if not settings and file_hash(a.folder / WEIGHTS) == file_hash(b.folder / WEIGHTS):
        return "files"
    return "change" if max(total.relative, *(one.relative for one in whole.values()), 0.0) <= SAME else None


def _passports(a: Passport | None, b: Passport | None) -> dict[str, list[Any]]:
    """Return both sides of what the passports say; null for an adapter without one."""
    if a is None and b is None:
        return {}
    both = (a, b)
    names = {name: one["name"] for passport in both if passport for name, one in passport.metrics.items()}
    found: dict[str, list[Any]] = {
        "base": [one and one.base.path for one in both],
        "base fingerprint": [one and one.base.fingerprint for one in both],
        "recipe": [one and one.recipe for one in both],
        "data": [one and one.data.get("source", {}).get("name") for one in both],
    }
    for name, title in names.items():
        found[title] = [one and one.after.get(name, {}).get("value") for one in both]
    return found


def _show(
    ui: UI, report: Mapping[str, Any], modules: Mapping[str, Compared], whole: Mapping[str, Compared], total: Compared
) -> None:
    ui.say(f"A: {report['a']}")
    ui.say(f"B: {report['b']}")
    if report["same"]:
        what = (
            "identical: the same weights and settings" if report["same"] == "files" else "the same change, in float32"
        )
        ui.say(f"A and B are {what}", style="bold")
    if report["same"] == "files":
        return
    rows = sorted({**modules, **whole}.items(), key=lambda item: -item[1].distance)
    more = [(f"... and {len(rows) - SHOWN} more", *[""] * 7)] if len(rows) > SHOWN else []
    ui.table(
        ("module", ">rank A", ">rank B", ">norm A", ">norm B", ">cosine", ">|A - B|", ">relative"),
        [*(_row(name, one) for name, one in rows[:SHOWN]), *more, _row("total of LoRA", total)],
    )
    for title, pairs in (("settings that differ", report["settings"]), ("passports", report["passports"])):
        if pairs:
            ui.say("")
            ui.table((title, "A", "B"), [(name, *map(_short, pair)) for name, pair in pairs.items()])


def _row(name: str, one: Compared) -> tuple[str, ...]:
    ranks = [str(rank) if rank else "-" for rank in one.ranks or (0, 0)]
    cosine = "-" if one.cosine is None else f"{one.cosine:.4f}"
    return name, *ranks, *(f"{size:.4g}" for size in one.norms), cosine, f"{one.distance:.4g}", f"{one.relative:.3g}"


def _short(value: Any) -> str:
    text = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
