"""A long text in a line: here the first line of a documentation string from the text below it.

The texts stand in packages that are installed with peftkit, so their number changes with the versions of these.
"""

from collections.abc import Iterator

from peftkit import EmbeddedData, Recipe
from peftkit_recipes.presets import on_gpus, tiny

PACKAGES = ("numpy", "scipy", "torch.nn", "torch.optim", "torch.distributions", "datasets", "huggingface_hub", "peft")
WORDS = range(4, 26)


def rows() -> Iterator[dict[str, str] | None]:
    """Give each documented class or function with prose below its first line; that line must be a short sentence."""
    from peftkit.data.documentation import documented

    for one in documented(PACKAGES):
        if one.body:
            sentence = one.summary.endswith(".") and len(one.summary.split()) in WORDS
            yield {"document": one.body, "summary": one.summary} if sentence else None


recipe = Recipe(
    name="summarization",
    summary="What does a text say, in one line? Learned from documentation of Python packages.",
    columns={
        "document": ("document", "article", "text", "body", "content", "abstract", "dialogue", "source", "input"),
        "summary": ("summary", "highlights", "title", "headline", "tldr", "target", "output"),
    },
    metrics=("rougeL", "rouge1", "rouge2", "length_ratio", "copy_rate"),
    embedded=EmbeddedData("documentation of installed packages", "documentation", "BSD-3-Clause AND Apache-2.0", rows),
    intended_use="Sums up a text in a line, in the manner of the summaries it was trained on.",
    defaults={
        "task": {
            "system": "Sum up the text in one line.",
            "prompt": "{document}",
            "completion": "{summary}",
        },
        "evaluate": {"max_new_tokens": 128},
    },
    presets={
        "tiny": tiny(train_rows=220, train={"max_length": 256}, evaluate={"max_rows": 100, "max_new_tokens": 40}),
        **on_gpus(per_device_train_batch_size=4, gradient_accumulation_steps=4),
    },
)
