"""The card of a merged model: `README.md` beside its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftkit.adapter.card import figure, markdown
from peftkit.merge.inputs import Inputs
from peftkit.model.load import AUTO_CLASSES
from peftkit.rundir import write_text

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def write_merge_card(folder: Path, inputs: Inputs, record: Mapping[str, Any]) -> None:
    """Write the card of a merged model from its record."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("peftkit.merge", "."),
        autoescape=False,  # noqa: S701 - Markdown; every value passes through `markdown` below
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=markdown,
    )
    passport = inputs.passport
    path = str(record["base"]["path"])
    card = environment.get_template("card.md.j2").render(
        record=record,
        base_id=path if _HUB_ID.fullmatch(path) and not Path(path).exists() else None,
        title=f"{passport.recipe}: a merged model" if passport else "A merged model",
        intended_use=passport.intended_use if passport else "Made with peftkit.",
        auto_class=AUTO_CLASSES[inputs.family],
        figure=figure,
        share=lambda value: f"{100 * value:.1f}%",
        agreement=_agreement,
    )
    write_text(folder / "README.md", card)


def _agreement(found: Mapping[str, Any]) -> str:
    if found["kl"] is None:
        return f"scores differ by at most {found['difference']:.3g} standard deviations"
    said = f"divergence {found['kl']:.2g} nats, same likeliest answer {100 * found['top1']:.1f}%"
    both = found["perplexity"]
    return said if both["live"] is None else f"{said}, perplexity {both['live']:.4g} and merged {both['merged']:.4g}"
