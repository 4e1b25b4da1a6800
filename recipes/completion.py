"""Plain text to be continued, with no question and no answer: continued pre-training on the texts of a field.

Learned at first from the documentation of two packages that peftkit needs anyway, as it lies on this machine.
"""

from collections.abc import Iterator

from peftkit import EmbeddedData, Recipe
from peftkit_recipes.presets import on_gpu, tiny

PACKAGES = ("numpy", "scipy")


def rows() -> Iterator[dict[str, str]]:
    """Give what each module, class and function is documented with, under its name."""
    from peftkit.data.documentation import documented

    for one in documented(PACKAGES):
        yield {"text": f"{one.name}\n\n{one.text}"}


# Models that were not taught to chat yet: they continue a text as it is.
LONG = {"max_length": 2048, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 8}

recipe = Recipe(
    name="completion",
    summary="Continue plain text of a field; at first the documentation of numpy and scipy.",
    columns={"text": ("text", "document", "content", "body", "page", "article")},
    metrics=("perplexity", "loss", "token_accuracy"),
    embedded=EmbeddedData("documentation of the installed numpy and scipy", "documentation", "BSD-3-Clause", rows),
    intended_use="Continues texts like those that it was trained on; it was not taught to answer questions.",
    defaults={
        "task": {"kind": "completion"},
        "evaluate": {"max_new_tokens": 128},
    },
    presets={
        "tiny": tiny(train_rows=220, train={"max_length": 256}, evaluate={"max_rows": 80, "max_new_tokens": 64}),
        "12gb": on_gpu(12, "Qwen/Qwen3-4B-Base", LONG),
        "24gb": on_gpu(24, "Qwen/Qwen3-8B-Base", LONG),
        "48gb": on_gpu(48, "Qwen/Qwen3-14B-Base", LONG),
    },
)
