"""What `peftkit inspect` shows of an adapter."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from peftkit.adapter.card_head import data_sources, licence_of
from peftkit.adapter.methods import find_method
from peftkit.export.readers import Verdict
from peftkit.share.inspect import Inspected, Module
from peftkit.ui import UI, size

_BAR = 24  # characters of the longest bar
_WAYS = {
    "as it is": "takes it as it is",
    "export": "takes it once it is exported",
    "merge": "takes it once it is merged into its base",
    "none": "cannot take it",
}


def show_inspected(ui: UI, found: Inspected) -> None:
    """Show an adapter: what it is, what it changes, and what is wrong with it."""
    ui.table(("adapter", str(found.folder)), facts(found))
    if found.modules:
        ui.say("")
        ui.table(("modules", ">how many", ">rank", ">scale", ">norm of the change"), kinds_of_modules(found.modules))
    if found.layers:
        ui.say("")
        most = max(found.layers.values())
        bars = {layer: "█" * round(_BAR * value / most) if most else "" for layer, value in found.layers.items()}
        rows = [(layer, f"{value:.4g}", bars[layer]) for layer, value in found.layers.items()]
        ui.table((">layer", ">norm", "norm of the change"), rows)
    for verdict in found.verdicts:
        _show_verdict(ui, verdict)
    for note in found.notes:
        ui.say(f"note: {note}")
    for problem in found.problems:
        ui.warn(problem)
    if not found.problems:
        ui.say("no problems found", style="bold")


def _show_verdict(ui: UI, verdict: Verdict) -> None:
    ui.say("")
    ui.say(f"{verdict.version} {_WAYS[verdict.way]}", style="bold")
    for problem in verdict.problems:
        ui.say(f"  {problem}")
    for command in verdict.commands:
        ui.say(f"  run: {command}")


def facts(found: Inspected) -> list[tuple[str, Any]]:
    """Return what is known of an adapter as pairs of a name and a text."""
    passport = found.passport
    kinds = ", ".join(f"{name} {count / found.parameters:.0%}" for name, count in found.dtypes.items())
    pairs = [
        ("method", _method(found)),
        ("base model", passport.base.path if passport else found.base),
        ("size", f"{size(found.size)}, {found.parameters:,} values ({kinds})"),
        ("norm of the change", None if found.norm is None else f"{found.norm:.4g}"),
        ("saved in whole", ", ".join(found.whole) or None),
    ]
    if passport is not None:
        source = passport.data.get("source", {})
        licence = licence_of(passport)
        licences = [str(one["licence"]) for one in data_sources(passport) if one.get("licence")]
        pairs += [
            ("recipe", passport.recipe),
            ("trained on", f"{passport.base.quantization} weights of {passport.base.architecture}"),
            ("base fingerprint", passport.base.fingerprint[:16]),
            ("licence of the base", (licence.name or licence.id) if licence else "not known"),
            ("data", source.get("name")),
            ("licence of the data", ", ".join(dict.fromkeys(licences)) or "not known"),
            *(
                (one["name"], _result(passport.before.get(key), passport.after.get(key), percent=one["percent"]))
                for key, one in passport.metrics.items()
            ),
            ("made by", f"peftkit {passport.made_from.change}" if passport.made_from else None),
            ("taken in from", passport.adopted.program if passport.adopted else None),
            ("versions", f"peftkit {passport.versions['peftkit']}, peft {passport.versions['peft']}"),
        ]
    return [(name, value) for name, value in pairs if value]


def kinds_of_modules(modules: tuple[Module, ...]) -> list[tuple[str, int, str, str, str]]:
    """Return for each kind of module how many there are, and from where to where ranks, scales and norms go."""
    kinds: dict[str, list[Module]] = defaultdict(list)
    for one in modules:
        kinds[one.name.rpartition(".")[2]].append(one)
    return [
        (
            kind,
            len(several),
            _range([one.rank for one in several]),
            _range([one.scale for one in several]),
            _range([one.norm for one in several]),
        )
        for kind, several in kinds.items()
    ]


def _method(found: Inspected) -> str:
    try:
        title = find_method(found.method).title
    except ValueError:
        title = found.method
    settings = ", ".join(f"{name}={value}" for name, value in found.settings.items() if name != "task_type")
    return f"{title} ({settings})" if settings else title


def _range(values: list[float] | list[int]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low} to {high}"


def _result(before: Any, after: Any, *, percent: bool) -> str | None:
    def written(one: Any) -> str:
        value = one and one.get("value")
        return "-" if value is None else f"{100 * value:.1f}%" if percent else f"{value:.4g}"

    return f"{written(before)} before, {written(after)} after" if after else None
