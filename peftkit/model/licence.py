"""The licence of a base model: looked for beside its weights, and said to be unknown where it is not there.

An adapter inherits it, so it goes into the passport and the card. Identifiers are those of the Hugging Face hub
(https://huggingface.co/docs/hub/repositories-licenses); what it has no word for is `other`, with a name and a link.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from peftkit.model.assets import ASSETS

if TYPE_CHECKING:
    from peftkit.config import ModelConfig
    from peftkit.model.load import Source

_HUB_WORDS = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 "
    "bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc "
    "cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 "
    "cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 "
    "cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 "
    "eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c "
    "ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openmdw-1.1 openrail++ osl-3.0 postgresql "
    "ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 "
    "llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma "
)
HUB_LICENCES = frozenset(_HUB_WORDS.split())
"""The identifiers that the hub takes, as its own check of a card lists them; beside them only `other` and `unknown`."""

_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "COPYING")
_MOST = 1 << 20  # bytes that are read of a card or a licence
_HEAD = 3000  # characters in which a licence says which one it is
_LINK = re.compile(r"https?://[\w.~-]+(?::\d+)?(?:/[\w./~%@:+-]*)?")
# What the heads of licences say, the more special ones first.
_TEXTS = (
    (r"llama 2 community license", "llama2"),
    (r"llama 3\.1 community license", "llama3.1"),
    (r"llama 3\.2 community license", "llama3.2"),
    (r"llama 3\.3 community license", "llama3.3"),
    (r"llama 4 community license", "llama4"),
    (r"llama 3 community license", "llama3"),
    (r"gemma terms of use", "gemma"),
    (r"apache license,? version 2\.0", "apache-2.0"),
    (r"gnu affero general public license,? version 3", "agpl-3.0"),
    (r"gnu lesser general public license,? version 3", "lgpl-3.0"),
    (r"gnu general public license,? version 3", "gpl-3.0"),
    (r"gnu general public license,? version 2", "gpl-2.0"),
    (r"mozilla public license,? version 2\.0", "mpl-2.0"),
    (r"creative commons attribution-noncommercial-sharealike 4\.0", "cc-by-nc-sa-4.0"),
    (r"creative commons attribution-noncommercial 4\.0", "cc-by-nc-4.0"),
    (r"creative commons attribution-sharealike 4\.0", "cc-by-sa-4.0"),
    (r"creative commons attribution 4\.0", "cc-by-4.0"),
    (r"cc0 1\.0 universal", "cc0-1.0"),
    (r"permission is hereby granted, free of charge, to any person obtaining a copy", "mit"),
    (r"redistribution and use in source and binary forms.*neither the name", "bsd-3-clause"),
    (r"redistribution and use in source and binary forms", "bsd-2-clause"),
)


class Licence(BaseModel):
    """A licence, and where it was found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="the hub's identifier; `other` where it has none")
    name: str | None = Field(None, description="of another licence: what it is called")
    link: str | None = Field(None, description="of another licence: where it can be read")
    found: str = Field(description="where it was found: a file's name, an asset, or the model's card")


def base_licence(model: ModelConfig, source: Source) -> Licence | None:
    """Look for the licence of a base model; None where nothing on this machine, nor its card on the hub, tells it.

    Args:
        model: What the configuration names.
        source: Where that was found.
    """
    if model.path in ASSETS:
        return embedded_licence(model.path)
    if model.path.lower().endswith(".gguf"):
        return _of_gguf(Path(model.path))
    if source.folder is None:
        return _of_hub(source.path, source.revision)
    return _of_folder(source.folder)


def embedded_licence(name: str) -> Licence | None:
    """Return the licence of an embedded model."""
    return named_licence(ASSETS[name].licence, found="the table of embedded models")


def named_licence(word: Any, name: Any = None, link: Any = None, *, found: str) -> Licence | None:
    """Return a licence from what someone called it; None for no word, or one that says nothing.

    Args:
        word: An identifier of the hub or of SPDX; of a list the only one.
        name: What it is called, if the word is `other`.
        link: Where it can be read; kept if it is a plain address.
        found: Where this stands.
    """
    if isinstance(word, list) and len(word) == 1:
        word = word[0]
    if not isinstance(word, str) or word.strip().lower() in ("", "unknown"):
        return None
    short = word.strip().lower()
    if short in HUB_LICENCES:
        return Licence(id=short, found=found)
    link = link.strip() if isinstance(link, str) and _LINK.fullmatch(link.strip()) else None
    called = name if isinstance(name, str) and name.strip() else "other" if short == "other" else word
    return Licence(id="other", name=_slug(called), link=link, found=found)


def licence_of_text(text: str, *, found: str) -> Licence:
    """Return the licence that a text is, by what it says at its beginning; `other` with its first words if unknown."""
    head = " ".join(text[:_HEAD].split()).lower()
    for pattern, identifier in _TEXTS:
        if re.search(pattern, head):
            return Licence(id=identifier, found=found)
    return Licence(id="other", name=_slug(" ".join(head.split()[:8])), found=found)


def read_front_matter(text: str) -> Mapping[str, Any]:
    """Return the YAML at the head of a card; nothing where there is none that can be read."""
    import yaml

    match = re.match(r"\s*---\r?\n(.*?)\r?\n---\s*(?:\n|$)", text, re.DOTALL)
    try:
        found = yaml.safe_load(match[1]) if match else None
    except (yaml.YAMLError, ValueError, RecursionError):  # a date that is none is a ValueError
        return {}
    return found if isinstance(found, dict) else {}


def read_text(path: Path) -> str:
    """Return the first megabyte of a text file; nothing where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST).decode("utf-8", errors="replace")
    except OSError:
        return ""


def card_licence(front: Mapping[str, Any], repo: str | None = None, *, found: str) -> Licence | None:
    """Return the licence that a card's head names.

    Args:
        front: The head of the card.
        repo: The repository on the hub that a relative link is in.
        found: Where the card is.
    """
    link = front.get("license_link")
    if isinstance(link, str) and repo is not None and not link.startswith("http"):
        link = f"https://huggingface.co/{repo}/blob/main/{link}"
    return named_licence(front.get("license"), front.get("license_name"), link, found=found)


def _of_folder(folder: Path) -> Licence | None:
    stated = card_licence(read_front_matter(read_text(folder / "README.md")), found="README.md of the base model")
    if stated is not None and stated.id != "other":
        return stated
    for name in _FILES:
        if text := read_text(folder / name).strip():
            read = licence_of_text(text, found=f"{name} of the base model")
            return stated if stated is not None and read.id == "other" else read
    return stated


def _of_hub(repo: str, revision: str | None) -> Licence | None:
    """Read the card of a model on the hub, from the cache where the hub is out of reach."""
    from huggingface_hub import hf_hub_download

    try:
        card = Path(hf_hub_download(repo, "README.md", revision=revision))
    except Exception:  # of HTTP, of the network, or a repository without a card: then it is not known
        return None
    return card_licence(read_front_matter(read_text(card)), repo, found=f"the card of {repo}")


def _of_gguf(file: Path) -> Licence | None:
    from gguf import GGUFReader

    try:
        fields = GGUFReader(file).fields
        stated = {name: _text_of(fields.get(f"general.license{name}")) for name in ("", ".name", ".link")}
    except Exception:  # a damaged file fails in many ways inside gguf and numpy
        return None
    return named_licence(stated[""], stated[".name"], stated[".link"], found="general.license of the GGUF file")


def _text_of(field: Any) -> str | None:
    return None if field is None else str(field.contents())


def _slug(name: str) -> str:
    """Write a name as the hub takes it: small letters, digits, dots and hyphens, at most 64."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:64].strip("-.") or "other"
