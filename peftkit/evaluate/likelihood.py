"""How likely a model finds the trained tokens of held-out examples, each predicted from the true tokens before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from peftkit.data.examples import IGNORED, Example
from peftkit.evaluate.answers import Answer

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

MAX_TOKENS = 1 << 14
"""Most tokens of a batch, padding included, whatever number of rows was asked for."""
MAX_LOGITS = 1 << 26
"""Most logits at once: 256 MiB of float32."""


def score_examples(
    model: PreTrainedModel | PeftModel,
    examples: Sequence[Example],
    *,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
) -> list[Answer]:
    """Score the trained tokens of examples in batches of like length.

    Args:
        model: A causal language model in evaluation mode, with or without an adapter.
        examples: Held-out examples; the very first token of one that has no prompt is not predicted, and not counted.
        batch_size: Most examples at once.
        on_batch: Called with the number of examples that were scored.

    Returns:
        For each example its negative log-likelihood in nats, the number of tokens, and how many of them are the
        likeliest one (of several alike, the one with the smallest id).
    """
    import torch

    answers: dict[int, Answer] = {}
    order = sorted(range(len(examples)), key=lambda place: len(examples[place]))
    with torch.inference_mode():
        for places in _batches(order, examples, batch_size):
            batch = _score_batch(model, [examples[place] for place in places])
            answers.update(zip(places, batch, strict=True))
            if on_batch is not None:
                on_batch(len(places))
    return [answers[place] for place in range(len(examples))]


def _batches(order: Sequence[int], examples: Sequence[Example], batch_size: int) -> Iterator[list[int]]:
    """Cut an order of growing lengths into batches of at most `batch_size` examples and `MAX_TOKENS` tokens."""
    batch: list[int] = []
    for place in order:
        if batch and (len(batch) == batch_size or (len(batch) + 1) * len(examples[place]) > MAX_TOKENS):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _score_batch(model: Any, examples: Sequence[Example]) -> list[Answer]:
    import torch

    longest = max(map(len, examples))
    rows = [example.prompt_ids + example.completion_ids for example in examples]
    labels = [[IGNORED] * len(example.prompt_ids) + example.trained_ids for example in examples]

    def padded(values: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
        # On the right, so that positions count from the first token on.
        return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in values], device=model.device)

    mask = padded([[1] * len(row) for row in rows], 0)
    targets = padded(labels, IGNORED)[:, 1:]
    is_scored = targets != IGNORED
    losses, is_likeliest = _score_tokens(model, padded(rows, 0), mask, targets[is_scored], is_scored)
    table = losses.new_zeros((3, *targets.shape))
    for values, row in zip((losses, is_likeliest, torch.ones_like(losses)), table, strict=True):
        row[is_scored] = values.to(row.dtype)
    return [Answer(nll=nll, hits=int(hits), tokens=int(tokens)) for nll, hits, tokens in table.sum(-1).T.tolist()]


def _score_tokens(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, targets: torch.Tensor, is_scored: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each scored token's negative log-likelihood and whether it is the likeliest.

    Args:
        model: The model, as for `score_examples`.
        ids: Token ids, int64 [rows, length].
        mask: Which of them are no padding, int64 [rows, length].
        targets: Ids of the scored tokens, int64 [n].
        is_scored: Which of the tokens after the first are scored, bool [rows, length - 1]; n of them.

    Returns:
        float64 [n] and bool [n].
    """
    import torch

    base = _base_of(model)
    read: list[Any] = []
    hook = base.base_model.register_forward_hook(lambda module, inputs, output: read.append(output))
    try:  # logits of one position only; the hidden states of all of them are taken on the way
        model(input_ids=ids, attention_mask=mask, logits_to_keep=1, use_cache=False)
    finally:
        hook.remove()
    # A soft prompt stands before the first token.
    hidden = read[-1].last_hidden_state[:, -ids.shape[1] : -1][is_scored]
    losses: list[torch.Tensor] = []
    is_likeliest: list[torch.Tensor] = []
    size = max(1, MAX_LOGITS // base.config.get_text_config().vocab_size)
    for start in range(0, len(targets), size):
        expected = targets[start : start + size]
        with _has_read(base, read[-1], hidden[start : start + size]):
            logits = base(input_ids=expected[None], use_cache=False).logits[0].float()
        chosen = logits.gather(-1, expected[:, None])[:, 0]
        losses.append((logits.logsumexp(-1) - chosen).double())
        is_likeliest.append(logits.argmax(-1) == expected)
    nothing = targets.new_zeros(0)
    return torch.cat([nothing.double(), *losses]), torch.cat([nothing.bool(), *is_likeliest])


def _base_of(model: Any) -> Any:
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


@contextmanager
def _has_read(base: Any, output: Any, hidden: torch.Tensor) -> Iterator[None]:
    """Let a model go on from hidden states, float [n, size], as if it had just read them.

    What stands between hidden states and logits differs: a scale, a cap, a head with an adapter of its own. So the
    model itself makes the logits of some positions, while its decoder gives back what it gave before.
    """
    decoder = base.base_model
    own = decoder.__dict__.get("forward")
    decoder.forward = lambda *args, **kwargs: type(output)(last_hidden_state=hidden[None])
    try:
        yield
    finally:
        if own is None:
            del decoder.forward
        else:
            decoder.forward = own
