"""The card of an adapter: `README.md` beside its weights, made from the passport alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peftkit.adapter.passport import Passport
from peftkit.rundir import write_text


def write_card(folder: Path, passport: Passport) -> None:
    """Write the card into an adapter's folder."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("peftkit.adapter", "."),
        autoescape=False,  # noqa: S701 - Markdown; every value passes through `markdown` below
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=markdown,
    )
    template = environment.get_template("card.md.j2")
    write_text(folder / "README.md", template.render(passport=passport, percent=lambda value: f"{100 * value:.1f}%"))


def markdown(value: Any) -> Any:
    """Escape what Markdown or a card's YAML head would read as markup, and keep it on one line."""
    if not isinstance(value, str):
        return value
    line = " ".join(value.split())
    for character in '\\`*_{}[]<>#|"':
        line = line.replace(
            character, f"\\{character}" if character not in "<>" else {"<": "&lt;", ">": "&gt;"}[character]
        )
    return line
