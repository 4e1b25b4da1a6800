"""Sentiment of a text, positive or negative, learned from movie-review snippets with human ratings.

Start here to write your own recipe: it is data, and one function that gives the embedded rows.
"""

from collections.abc import Iterator

from peftkit import EmbeddedData, Recipe
from peftkit_recipes.presets import encoder, on_gpus, tiny
from peftkit_recipes.snippets import snippets

CLEAR = 0.5  # ratings run from -4 to 4; those nearer to zero than this are neither positive nor negative


def rows() -> Iterator[dict[str, str] | None]:
    """Give the snippets; each was rated by 20 people, and the mean decides its label."""
    for rating, text in snippets("movieReviewSnippets"):
        clear = abs(rating) >= CLEAR
        yield {"text": text, "label": "positive" if rating > 0 else "negative"} if clear else None


recipe = Recipe(
    name="sentiment",
    summary="Positive or negative? Learned from movie-review snippets rated by people.",
    columns={
        "text": ("text", "sentence", "review", "content", "snippet", "comment", "body"),
        "label": ("label", "sentiment", "polarity", "class", "category", "target"),
    },
    metrics=("accuracy", "macro_f1", "likelihood_accuracy", "valid_answers"),
    embedded=EmbeddedData("movie-review snippets rated by 20 people each", "vader-ratings", "MIT", rows),
    intended_use="Judges whether a short English text is positive or negative.",
    defaults={
        "task": {
            "kind": "classification",
            "system": "Classify the sentiment of the text. Answer with one word: {labels}.",
            "labels": ["negative", "positive"],
        },
        "train": {"max_length": 256},
    },
    presets={"tiny": tiny(train_rows=800), "encoder": encoder(train_rows=4000), **on_gpus()},
)
