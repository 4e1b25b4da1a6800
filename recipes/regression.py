"""A score for a text, learned by a small head: here how good or bad people found movie-review snippets, -4 to 4."""

from collections.abc import Iterator

from peftkit import EmbeddedData, Recipe
from peftkit_recipes.presets import encoder, on_gpus
from peftkit_recipes.snippets import snippets


def rows() -> Iterator[dict[str, str]]:
    """Give the snippets with the mean of their 20 ratings."""
    for rating, text in snippets("movieReviewSnippets"):
        yield {"text": text, "score": str(rating)}


recipe = Recipe(
    name="regression",
    summary="What score does a text get? Learned from ratings of movie-review snippets.",
    columns={
        "text": ("text", "sentence", "review", "content", "snippet", "comment", "body"),
        "score": ("score", "rating", "stars", "value", "grade", "target", "label"),
    },
    metrics=("pearson", "spearman", "mse", "mae"),
    embedded=EmbeddedData("movie-review snippets with the mean of 20 ratings", "vader-ratings", "MIT", rows),
    intended_use="Rates how positive a short English text is, from -4 to 4.",
    defaults={"task": {"kind": "regression", "completion": "{score}"}, "train": {"max_length": 256}},
    presets={"tiny": encoder(train_rows=4000), **on_gpus()},
)
