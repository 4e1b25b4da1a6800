"""The page that `peftkit inspect --html` writes."""

from __future__ import annotations

from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from peftkit.evaluate.charts import AFTER, chart
from peftkit.evaluate.template import page_template
from peftkit.evaluate.wording import count, size
from peftkit.rundir import require_new, write_text
from peftkit.share.inspect import Inspected, Module
from peftkit.share.inspect_screen import facts, kinds_of_modules

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KINDS = 12  # lines in a chart, beyond which they cannot be told apart


def write_page(found: Inspected, path: Path) -> None:
    """Write the page of an adapter.

    Raises:
        OutputError: There is such a file already, or it cannot be written.
    """
    require_new(path)
    passport = found.passport
    page = page_template("peftkit.share", "inspect.html.j2", size=size, count=count).render(
        found=found,
        title=f"{passport.recipe} on {passport.base.path}" if passport else found.folder.name,
        facts=facts(found),
        kinds=kinds_of_modules(found.modules) if found.modules else [],
        charts=_charts(found),
        version=version("peftkit"),
    )
    write_text(path, page)


def _charts(found: Inspected) -> list[Markup]:
    charts = []
    if found.layers:
        charts.append(_layers_chart(found.layers))
    by_kind: dict[str, list[Module]] = defaultdict(list)
    for one in found.modules:
        if one.layer is not None:
            by_kind[one.name.rpartition(".")[2]].append(one)
    if 0 < len(by_kind) <= _KINDS:
        charts.append(_kinds_chart(by_kind))
    return charts


def _layers_chart(layers: dict[int, float]) -> Markup:
    def draw(axes: Axes) -> None:
        axes.set_title("Change of each layer")
        axes.bar(list(layers), list(layers.values()), color=AFTER)
        axes.set_xlabel("Layer")
        axes.set_ylabel("Norm of the change")
        axes.locator_params(axis="x", integer=True)
        axes.grid(visible=False, axis="x")

    most = max(layers, key=lambda layer: layers[layer])
    said = f"{len(layers)} layers, the largest {layers[most]:.3g} in layer {most}"
    return chart("layers", f"Norm of the change of each layer: {said}.", draw, 2.8)


def _kinds_chart(by_kind: dict[str, list[Module]]) -> Markup:
    def draw(axes: Axes) -> None:
        axes.set_title("Change of each kind of module")
        for number, (kind, several) in enumerate(by_kind.items()):
            ordered = sorted((one.layer or 0, one.norm) for one in several)
            axes.plot(
                [layer for layer, _ in ordered],
                [size for _, size in ordered],
                label=kind,
                color=f"C{number % 10}",
                marker="os^"[number // 10] if len(ordered) < 40 else "",
                markersize=3,
                linewidth=1.4,
            )
        axes.set_xlabel("Layer")
        axes.set_ylabel("Norm of the change")
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="x", integer=True)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)

    said = "; ".join(
        f"{kind} {sum(one.norm for one in several) / len(several):.3g}" for kind, several in by_kind.items()
    )
    return chart("kinds", f"Norm of the change of each kind of module over the layers, on average: {said}.", draw, 3.6)
