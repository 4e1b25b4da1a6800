"""Ask a model about examples, in the way that suits the task and the kind of model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from peftkit.config import RunConfig
from peftkit.data.examples import Example, RowEncoder
from peftkit.evaluate.answers import Answer

if TYPE_CHECKING:
    from peftkit.model.family import Family

OnBatch = Callable[[int], None]


def judge_examples(
    model: Any,
    family: Family,
    encoder: RowEncoder,
    examples: Sequence[Example],
    config: RunConfig,
    on_batch: OnBatch | None = None,
) -> list[Answer]:
    """Return what a model answers to held-out examples; of chats and plain texts, how likely it finds them.

    Args:
        model: The model in evaluation mode, with or without its adapter.
        family: How it answers.
        encoder: The encoder that made the examples.
        examples: Held-out rows.
        config: The run's configuration.
        on_batch: Called with the number of examples that were done.
    """
    if config.task.kind in ("chat", "completion"):
        from peftkit.evaluate.likelihood import score_examples

        return score_examples(model, examples, batch_size=config.evaluate.batch_size, on_batch=on_batch)
    return answer_examples(model, family, encoder, examples, config, on_batch)


def answer_examples(
    model: Any,
    family: Family,
    encoder: RowEncoder,
    examples: Sequence[Example],
    config: RunConfig,
    on_batch: OnBatch | None = None,
) -> list[Answer]:
    """Return a model's labels, scores or texts for the prompts of examples; arguments as for `judge_examples`."""
    prompts = [example.prompt_ids for example in examples]
    size = config.evaluate.batch_size
    if family == "head":
        from peftkit.evaluate.heads import answer_by_head

        return answer_by_head(model, encoder.tokenizer, prompts, config.task, batch_size=size, on_batch=on_batch)
    if family == "seq2seq":
        from peftkit.evaluate.seq2seq import answer_seq2seq as answer
    else:
        from peftkit.evaluate.answers import answer
    return answer(
        model,
        encoder.tokenizer,
        prompts,
        label_ids=encoder.label_ids(),
        end_ids=encoder.end_ids,
        max_new_tokens=config.evaluate.max_new_tokens,
        batch_size=size,
        separator=config.task.separator,
        on_batch=on_batch,
    )


def prompt_example(encoder: RowEncoder, text: str, *, room: int) -> Example:
    """Return the example of a new text, which stands for the first column that is asked about."""
    names = encoder.required_columns()
    columns = dict.fromkeys(names, "") | {names[0]: text}
    return Example("the input", columns, "", encoder.prompt_ids(columns, room=room), [], False)
