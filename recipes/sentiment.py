"""Sentiment of a text, positive or negative, learned from movie-review snippets with human ratings.

Start here to write your own recipe: it is data, and one function that reads the embedded rows.
"""

from collections.abc import Iterator

from peftkit import EmbeddedData, Preset, Recipe

CLEAR = 0.5  # ratings run from -4 to 4; those nearer to zero than this are neither positive nor negative


def rows() -> Iterator[dict[str, str] | None]:
    """Read the snippets; each was rated by 20 people, and the mean decides its label."""
    from peftkit.model.assets import ASSETS, read_member

    text = read_member(
        ASSETS["vader-ratings"],
        "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
        "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
    ).decode("utf-8")
    for line in text.rstrip().split("\n"):
        _, rating, snippet = line.split("\t")
        clear = abs(float(rating)) >= CLEAR
        yield {"text": snippet.strip(), "label": "positive" if float(rating) > 0 else "negative"} if clear else None


def on_gpu(memory: int, model: str, learning_rate: float = 2e-4) -> Preset:
    """Values for one GPU of `memory` GB."""
    return Preset(
        f"one GPU with {memory} GB: {model.removeprefix('Qwen/')} in NF4",
        memory,
        {
            "model": {"path": model, "quantization": "nf4", "chat_template_kwargs": {"enable_thinking": False}},
            "train": {
                "learning_rate": learning_rate,
                "per_device_train_batch_size": 16,
                "gradient_checkpointing": True,
            },
        },
    )


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
            "system": "Classify the sentiment of the text. Answer with one word: {labels}.",
            "labels": ["negative", "positive"],
        },
        "train": {"max_length": 256},
    },
    presets={
        "tiny": Preset(
            "any machine, no GPU needed: SmolLM2-135M in NF4, minutes on two cores",
            0,
            {
                "model": {"path": "smollm2-135m-instruct", "quantization": "nf4"},
                "data": {"train_rows": 800},
                "train": {
                    "learning_rate": 5e-4,
                    "per_device_train_batch_size": 4,
                    "gradient_accumulation_steps": 2,
                },
            },
        ),
        "12gb": on_gpu(12, "Qwen/Qwen3-4B-Instruct-2507"),
        "24gb": on_gpu(24, "Qwen/Qwen3-8B"),
        "48gb": on_gpu(48, "Qwen/Qwen3-32B", learning_rate=1e-4),
    },
)
