"""Translation, here of a program's messages from English to Chinese; other languages by `task.system` and your rows.

chrF decides: half of the Chinese messages have at most four characters, too few for the runs of four words that BLEU
counts, and chrF needs no idea of what a word is in the language that is translated to.
"""

import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peftkit import EmbeddedData, Metric, Recipe
from peftkit_recipes.presets import on_gpus, tiny

APPS = "admin admindocs auth contenttypes flatpages gis humanize postgres redirects sessions sites"
CATALOGUES = [
    "conf/locale/zh_Hans/LC_MESSAGES/django.po",
    "contrib/admin/locale/zh_Hans/LC_MESSAGES/djangojs.po",
    *(f"contrib/{app}/locale/zh_Hans/LC_MESSAGES/django.po" for app in APPS.split()),
]
PLACEHOLDER = re.compile(r"%(?:\(\w+\))?[sdfir]|\{\w*\}|</?[a-zA-Z][^<>]*>")


def rows() -> Iterator[dict[str, str] | None]:
    """Give each message of Django once; left out are those with no translation of their own, or that need a context."""
    from babel.messages.pofile import read_po

    from peftkit.model.assets import ASSETS, read_member

    given = set()
    for catalogue in CATALOGUES:
        for message in read_po(io.BytesIO(read_member(ASSETS["django-translations"], f"django/{catalogue}"))):
            source, target = plural(message.id), plural(message.string or "")
            if not source:  # the head of a catalogue
                continue
            usable = target not in ("", source) and not message.fuzzy and not message.context and source not in given
            given |= {source} if usable else set()
            yield {"source": source, "target": target} if usable else None


def plural(forms: str | Sequence[str]) -> str:
    """Return a message's plural; Chinese has one form for every number, which goes with the English plural."""
    return forms if isinstance(forms, str) else forms[-1]


def kept_placeholders(expected: str, answer: str, row: Mapping[str, Any]) -> float | None:
    """Share of the placeholders and tags of the reference that the answer has as often; None where there are none."""
    wanted, given = Counter(PLACEHOLDER.findall(expected)), Counter(PLACEHOLDER.findall(answer))
    return sum(given[one] == wanted[one] for one in wanted) / len(wanted) if wanted else None


recipe = Recipe(
    name="translation",
    summary="From one language to another, with placeholders kept; from English to Chinese at first.",
    columns={
        "source": ("source", "src", "source_text", "original", "msgid", "english", "en"),
        "target": ("target", "tgt", "target_text", "translation", "msgstr", "chinese", "zh", "zh_hans", "zh_cn"),
    },
    metrics=("chrf", Metric.mean("placeholders", "Placeholders kept", kept_placeholders), "bleu"),
    embedded=EmbeddedData("Django's messages in English and Chinese", "django-translations", "BSD-3-Clause", rows),
    intended_use="Translates short messages of programs.",
    defaults={
        "task": {
            "system": "Translate from English to Chinese. Keep placeholders such as %(name)s and tags as they are.",
            "prompt": "{source}",
            "completion": "{target}",
        },
        "train": {"max_length": 512},
        "evaluate": {"max_new_tokens": 256},
    },
    presets={
        "tiny": tiny(train_rows=600, data={"test_fraction": 0.2}, evaluate={"max_new_tokens": 64}),
        **on_gpus(),
    },
)
