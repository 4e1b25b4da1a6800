"""Documents that are packed into one row must not see each other: the model itself is asked, in four short passes.

Whether they do depends on the model, the attention, the adapter's method and the trainer together, and none of them
says so: an attention that is not known to transformers gets no mask, and PEFT's prompts drop the positions that say
where a document begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from peftkit.errors import ConfigError, first_line

TOKENS = 4
LEAK = 0.05
"""Documents are not apart from this share on of what the one does to the other if they are one; rounding is below."""


def require_apart(model: Any, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
    """Refuse a model that lets a packed document see the one before it.

    Args:
        model: With its adapter.
        collate: Makes a batch of rows that are packed, each with `seq_lengths`.

    Raises:
        ConfigError: The answers in a document depend on the document before it, or the model takes no packed ones.
    """
    attention = getattr(model.config, "_attn_implementation", None)
    which = f"train.packing=true: with this model and adapter, and the attention '{attention}',"
    change = "take train.packing=false, or another model.attn_implementation"
    try:
        packed = _influence(model, collate, [TOKENS, TOKENS])
        as_one = _influence(model, collate, [2 * TOKENS])
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError) as error:
        # So transformers refuses a convolution that would run over the border, and torch lengths that are no longer
        # those of the row, as behind a prompt.
        raise ConfigError(f"{which} packed texts are refused: {first_line(error)}; {change}") from error
    if not packed <= LEAK * as_one:  # what is no number is no proof either
        raise ConfigError(f"{which} a text would see the one before it in its row; {change}")


def _influence(model: Any, collate: Callable[..., Any], lengths: Sequence[int]) -> float:
    """Return how far the logits of a row's second half move with the tokens of its first half."""
    vocabulary = model.config.get_text_config().vocab_size
    moved = []
    for start in (0, TOKENS):
        tokens = [one % vocabulary for one in (*range(start, start + TOKENS), *range(2 * TOKENS, 3 * TOKENS))]
        batch = collate([{"input_ids": tokens, "labels": tokens, "seq_lengths": list(lengths)}])
        del batch["labels"]
        moved.append(_logits(model, batch)[:, -TOKENS:].float())
    return float((moved[0] - moved[1]).abs().max())


def _logits(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    inputs = {name: one.to(model.device) if isinstance(one, torch.Tensor) else one for name, one in batch.items()}
    training, lower = model.training, model.dtype != torch.float32
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(model.device.type, enabled=lower, dtype=model.dtype):
            logits: torch.Tensor = model(**inputs, use_cache=False).logits
    finally:
        model.train(training)
    return logits
