"""What an encoder-decoder model answers: generated text, and how likely it finds each allowed label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftkit.data.framed import frame
from peftkit.evaluate.answers import Answer, match_label, match_labels
from peftkit.evaluate.heads import right_padded

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def answer_seq2seq(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    label_ids: Mapping[str, Sequence[int]],
    end_ids: frozenset[int],
    max_new_tokens: int,
    batch_size: int,
    separator: str | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> list[Answer]:
    """Answer sources greedily in batches of like length, and score the labels; arguments as for `answers.answer`.

    Returns:
        Answers in the order of the prompts.
    """
    import torch

    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    settings = _greedy(tokenizer, end_ids, max_new_tokens)
    answers: dict[int, Answer] = {}
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            ids, mask = right_padded([prompts[place] for place in places], int(tokenizer.pad_token_id), model.device)
            made = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
            texts = [text.strip() for text in tokenizer.batch_decode(made, skip_special_tokens=True)]
            scores = _scores(model, ids, mask, label_ids) if separator is None else [{} for _ in places]
            for place, text, row in zip(places, texts, scores, strict=True):
                answers[place] = _answer(text, row, list(label_ids), separator)
            if on_batch is not None:
                on_batch(len(places))
    return [answers[place] for place in range(len(prompts))]


def _answer(text: str, scores: Mapping[str, float], labels: Sequence[str], separator: str | None) -> Answer:
    if separator is not None:
        return Answer(text, labels=match_labels(text, labels, separator))
    return Answer(text, match_label(text, labels) if labels else None, scores)


def _greedy(tokenizer: PreTrainedTokenizerBase, end_ids: frozenset[int], max_new_tokens: int) -> Any:
    """Return settings of plain greedy generation, stated so that none of the model's own (beams, penalties) counts.

    An answer begins as the tokenizer begins a target: a translator's with the token of the language to write.
    """
    from transformers import GenerationConfig

    start, _ = frame(tokenizer, target=True)
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(end_ids),
        forced_bos_token_id=start[0] if start else None,
        do_sample=False,
        num_beams=1,
        num_return_sequences=1,
        min_length=0,
        min_new_tokens=0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        encoder_no_repeat_ngram_size=0,
    )


def _scores(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, label_ids: Mapping[str, Sequence[int]]
) -> list[dict[str, float]]:
    """Return the log-likelihood of each label's tokens for each row; the sources are read once."""
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    scores: list[dict[str, float]] = [{} for _ in ids]
    read: dict[str, Any] = {}
    for label, tokens in label_ids.items():
        labels = torch.tensor([list(tokens)] * len(ids), device=ids.device)
        output = model(input_ids=ids, attention_mask=mask, labels=labels, **read)
        read = {"encoder_outputs": BaseModelOutput(last_hidden_state=output.encoder_last_hidden_state)}
        likelihood = output.logits.float().log_softmax(-1).gather(-1, labels[..., None]).sum((1, 2))  # [rows]
        for row, value in zip(scores, likelihood.tolist(), strict=True):
            row[label] = round(value, 4)
    return scores
