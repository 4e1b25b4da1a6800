"""What kind of text is this? One label of a set or, with `task.multi_label=true`, any number of them.

The labels are those of your own rows. The embedded rows come from four kinds of sources: movie review, product review,
tweet and editorial. The collection wrote product reviews in lower case and masked names and links in tweets; that is
evened out here, so that the kind has to be read from the words.
"""

import html
import re
from collections.abc import Iterator

from peftkit import EmbeddedData, Recipe
from peftkit_recipes.presets import encoder, on_gpus, tiny
from peftkit_recipes.snippets import snippets

SOURCES = {
    "movie review": "movieReviewSnippets",
    "product review": "amazonReviewSnippets",
    "tweet": "tweets",
    "editorial": "nytEditorialSnippets",
}
MASKS = re.compile(r"@anonymous|http://url_removed|\bRT\b")
LEAST_WORDS = 5  # "i agree." could come from anywhere


def rows() -> Iterator[dict[str, str] | None]:
    """Give as many texts of each source as the smallest has, chosen by their hash; the others are left out."""
    from peftkit.data.splits import order_by_hash

    texts = {label: [plain(text) for _, text in snippets(source)] for label, source in SOURCES.items()}
    usable = {label: [text for text in own if len(text.split()) >= LEAST_WORDS] for label, own in texts.items()}
    fewest = min(map(len, usable.values()))
    for label, own in usable.items():
        for place in order_by_hash(own, "classification")[:fewest]:
            yield {"text": own[place], "label": label}
        yield from [None] * (len(texts[label]) - fewest)


def plain(text: str) -> str:
    """Write a text as if all four sources had been prepared in the same way."""
    return " ".join(MASKS.sub(" ", html.unescape(text)).lower().split())


recipe = Recipe(
    name="classification",
    summary="Which label fits a text: genre, topic, kind of mail, or any labels of yours?",
    columns={
        "text": ("text", "sentence", "review", "content", "message", "mail", "email", "body", "comment", "description"),
        "label": ("label", "labels", "class", "category", "categories", "topic", "topics", "tags", "genre", "target"),
    },
    metrics=("accuracy", "macro_f1", "micro_f1", "likelihood_accuracy", "valid_answers"),
    embedded=EmbeddedData("texts of four genres from rated snippets", "vader-ratings", "MIT", rows),
    intended_use="Gives a short text the label, or the labels, that fit it.",
    defaults={
        "task": {
            "kind": "classification",
            "system": "Label the text with what fits it of: {labels}. Answer with nothing else.",
        },
        "train": {"max_length": 256},
    },
    presets={"tiny": tiny(train_rows=600), "encoder": encoder(train_rows=4000), **on_gpus()},
)
