"""The card of an adapter: `README.md` beside its weights, made from the passport alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from peftkit.adapter.methods import find_method
from peftkit.adapter.passport import Passport
from peftkit.rundir import write_text

# What makes a list, a rule or a heading where a line begins with it.
_LEADING = re.compile(r"^(\d*)([-+=]+(?=[-+=\s]|$)|(?<=\d)[.)](?=\s|$))")
_ESCAPES = str.maketrans({**{mark: f"\\{mark}" for mark in '\\`*_{}[]#|~"'}, "<": "&lt;", ">": "&gt;"})


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
    card = environment.get_template("card.md.j2").render(
        passport=passport, method=find_method(passport.config.adapter.method).title, figure=figure
    )
    write_text(folder / "README.md", card)


def figure(value: float | None, percent: bool) -> str:
    """Write a metric's value."""
    return "not defined" if value is None else f"{100 * value:.1f}%" if percent else f"{value:.4g}"


def markdown(value: Any) -> Any:
    """Escape what Markdown or HTML would read as markup, and keep it on one line."""
    if not isinstance(value, str):
        return value
    return _LEADING.sub(r"\1\\\2", " ".join(value.split()).translate(_ESCAPES))
