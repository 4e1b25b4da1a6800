"""The card of a merged model: `README.md` beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftkit.adapter.card import Verbatim, base_name, environment, licence_text
from peftkit.adapter.card_head import hub_base, licence_fields, licence_of
from peftkit.config import ModelConfig
from peftkit.merge.inputs import Inputs
from peftkit.model.licence import Licence, base_licence
from peftkit.model.load import AUTO_CLASSES
from peftkit.rundir import write_text
from peftkit.screen import change_text, figure_text


def write_merge_card(folder: Path, inputs: Inputs, record: Mapping[str, Any]) -> None:
    """Write the card of a merged model from its record."""
    passport = inputs.passport
    path = str(record["base"]["path"])
    licence = licence_of(passport) if passport else base_licence(ModelConfig(path=path), inputs.source)
    card = (
        environment("peftkit.merge")
        .get_template("card.md.j2")
        .render(
            record=record,
            head=Verbatim(_head(path, licence)),
            base_name=base_name(path),
            licence=licence_text(licence),
            title=f"{passport.recipe}: a merged model" if passport else "A merged model",
            intended_use=passport.intended_use if passport else "Made with peftkit.",
            auto_class=AUTO_CLASSES[inputs.family],
            figure=figure_text,
            change=change_text,
            share=lambda value: f"{100 * value:.1f}%",
            agreement=_agreement,
        )
    )
    write_text(folder / "README.md", card)


def _head(path: str, licence: Licence | None) -> str:
    """Return the YAML at the head of the card."""
    from huggingface_hub import ModelCardData

    base = hub_base(path)
    more: dict[str, Any] = {**licence_fields(licence), **({"base_model_relation": "merge"} if base else {})}
    data = ModelCardData(base_model=base, library_name="transformers", tags=["peftkit", "merge"], **more)
    return str(data.to_yaml(original_order=["base_model", "base_model_relation", "library_name", "license"]))


def _agreement(name: str, found: Mapping[str, Any]) -> str:
    if found["kl"] is None:
        return f"scores differ by at most {found['difference']:.3g} standard deviations"
    said = f"divergence {found['kl']:.2g} nats, same likeliest answer {100 * found['top1']:.1f}%"
    both = found["perplexity"]
    if both["live"] is None:
        return said
    # The base without adapter takes the place of the merged model.
    own = f"{both['merged']:.4g}" if name == "to_base" else f"{both['live']:.4g} and merged {both['merged']:.4g}"
    return f"{said}, perplexity {own}"
