"""The card of an adapter: `README.md` beside its weights, made from the passport and PEFT's configuration."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
from peftkit.adapter.card_head import data_sources, head_of, hub_base, licence_of
from peftkit.adapter.card_use import FOLDER, asked, kind_of, uses
from peftkit.adapter.methods import find_method
from peftkit.adapter.passport import PASSPORT, Passport, read_passport
from peftkit.adapter.peft_file import read_settings
from peftkit.errors import AdapterError, OutputError, first_line
from peftkit.export.readers import Facts, read_facts
from peftkit.model.assets import ASSETS
from peftkit.model.licence import Licence
from peftkit.rundir import write_text
from peftkit.screen import change_text, figure_text
from peftkit.train.checks import loss_name

CARD = "README.md"
# What makes a list, a rule or a heading where a line begins with it.
_LEADING = re.compile(r"^(\d*)([-+=]+(?=[-+=\s]|$)|(?<=\d)[.)](?=\s|$))")
_ESCAPES = str.maketrans({**{mark: f"\\{mark}" for mark in '\\`*_{}[]#|~"'}, "<": "&lt;", ">": "&gt;"})
_MARK = re.compile(r"\n<!-- written by peftkit, ([0-9a-f]{64}) -->\n$")
_FILES = {
    WEIGHTS: "the adapter's weights",
    PEFT_CONFIG: "PEFT's configuration of it",
    PASSPORT: "the passport: base model, template, configuration, data and results",
}


class Verbatim(str):
    """Text that is Markdown already, or stands inside a fence of code."""


def write_card(folder: Path, passport: Passport) -> None:
    """Write the card into an adapter's folder."""
    write_text(folder / CARD, render_card(folder, passport))


def renew_card(folder: Path, *, force: bool = False) -> str:
    """Write the card of an adapter again, and return it; a card that a person wrote or changed stays.

    Raises:
        AdapterError: The adapter has no passport, or is damaged.
        OutputError: The card is someone's own, and `force` is not given; or it cannot be written.
    """
    passport = read_passport(folder)
    path = folder / CARD
    if path.exists() and not force and not is_made_card(path):
        raise OutputError(f"'{path}' was not written by peftkit, or was changed since; pass --force to write over it")
    text = checked_card(folder, passport)
    write_text(path, text)
    return text


def checked_card(folder: Path, passport: Passport, place: str = FOLDER) -> str:
    """Return the card of an adapter from elsewhere, whose passport may hold anything.

    Raises:
        AdapterError: The passport lacks what a card needs.
    """
    from jinja2 import UndefinedError

    try:
        return render_card(folder, passport, place)
    except (KeyError, TypeError, ValueError, AttributeError, UndefinedError) as error:
        raise AdapterError(
            f"the passport in '{folder}' does not say what a card needs ({type(error).__name__}: {first_line(error)}); "
            "fetch the adapter again"
        ) from error


def is_made_card(path: Path) -> bool:
    """Whether a card is as peftkit wrote it: its last line holds the hash of all before."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    found = _MARK.search(text)
    return found is not None and found[1] == _hash(text[: found.start()])


def render_card(folder: Path, passport: Passport, place: str = FOLDER) -> str:
    """Return the card of an adapter.

    Args:
        folder: Its folder.
        passport: Its passport.
        place: What its users write for it: its folder, or its id on the hub.
    """
    settings = _settings(folder)
    origin = hub_base(passport.base.path)
    text = (
        environment("peftkit.adapter")
        .get_template("card.md.j2")
        .render(
            passport=passport,
            head=Verbatim(head_of(passport)),
            method=find_method(passport.config.adapter.method).title,
            loss=loss_name(passport.config),
            settings=settings,
            base_name=base_name(passport.base.path),
            origin=origin if origin != passport.base.path else None,
            form=Verbatim(ASSETS[passport.base.path].form) if passport.base.path in ASSETS else "",
            held="unquantized" if passport.base.quantization == "none" else passport.base.quantization,
            licence=licence_text(licence_of(passport)),
            messages=asked(passport) if kind_of(passport) == "causal" else (),
            uses=uses(passport, _facts(folder, passport.config.adapter.method), place),
            sources=[_source(one) for one in data_sources(passport)],
            limits=_limits(passport),
            files={name: (what, passport.files.get(name, "it holds the others")) for name, what in _FILES.items()},
            figure=figure_text,
            change=change_text,
        )
    )
    return f"{text}\n<!-- written by peftkit, {_hash(text)} -->\n"


def environment(package: str) -> Any:
    """Return jinja's environment for the cards of a package: every value is escaped, but what is `Verbatim`."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        autoescape=False,  # noqa: S701 - Markdown; every value passes through `markdown` below
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=markdown,
    )
    made.filters["verbatim"] = Verbatim
    return made


def markdown(value: Any) -> Any:
    """Escape what Markdown or HTML would read as markup, and keep it on one line."""
    if not isinstance(value, str) or isinstance(value, Verbatim):
        return value
    return _LEADING.sub(r"\1\\\2", " ".join(value.split()).translate(_ESCAPES))


def base_name(path: str) -> str:
    """Return what a base model is called: an embedded name, a hub id, or the last part of a path on someone's disk."""
    return path if path in ASSETS or hub_base(path) else re.split(r"[\\/]", path.rstrip("\\/"))[-1] or path


def licence_text(licence: Licence | None) -> str:
    """Say a licence, and where it was found."""
    if licence is None:
        return "not known: nothing on the machine that trained the adapter said it; look it up before you share this"
    named = f"{licence.name} ({licence.link})" if licence.link else licence.name or licence.id
    return f"{named}, as {licence.found} says"


def _settings(folder: Path) -> Mapping[str, Any]:
    try:
        return read_settings(folder / PEFT_CONFIG)
    except (OSError, AdapterError):
        return {}


def _facts(folder: Path, method: str) -> Facts:
    """Return what other programs have to know of an adapter; of one without files what its passport says."""
    try:
        return read_facts(folder)
    except AdapterError:
        return Facts({"peft_type": method.upper()}, {}, (), (), packed=False)


def _source(source: Mapping[str, Any]) -> dict[str, str]:
    """Return a source's name, licence, and what its content is told by."""
    asset = ASSETS.get(str(source.get("asset")))
    licences = source.get("licence") or ", ".join(map(str, source.get("licences") or ()))
    commit = source.get("revision") or source.get("version")
    digest = source.get("sha256") or (asset and asset.sha256)
    mark = f"commit or version {commit}" if commit else f"sha256 {digest}" if digest else "not noted"
    return {"name": str(source.get("name", "not known")), "licence": licences or "not known", "mark": mark}


def _limits(passport: Passport) -> list[str]:
    task, found = passport.config.task, []
    if passport.made_from:
        found.append("Nothing was measured on held-out rows.")
    elif passport.after:
        found.append("The figures hold for rows like those that were held out.")
        first = next(iter(passport.metrics))
        change = passport.difference[first]
        if change["value"] is not None and change["low"] <= 0 <= change["high"]:
            name = passport.metrics[first]["name"]
            found.append(f"{name}: the interval of its difference holds 0, so it is not shown that anything changed.")
    else:
        found.append("Nothing was measured on held-out rows: there are none.")
    if task.labels:
        found.append("It gives one of its labels whatever a text is about.")
    if passport.adopted:
        found.append("It is asked as peftkit's configuration says, which need not be how it was trained.")
    elif task.kind != "completion":
        most = passport.config.train.max_length
        found.append(f"It was trained on at most {most} tokens at a time, instruction and answer included.")
    found.append("It belongs to these base weights: peftkit refuses others, most programs do not.")
    found.append("It inherits the base model's licence, knowledge and biases.")
    return found


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
