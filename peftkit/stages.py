"""The stages that a run shares with a check and with judging it again: data and base model found, rows judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftkit import machine, screen
from peftkit.config import RunConfig
from peftkit.memory.retries import Retries
from peftkit.recipe import Recipe
from peftkit.resolve import Resolved
from peftkit.ui import UI

if TYPE_CHECKING:
    from peft import PeftModel

    from peftkit.data.examples import Example, RowEncoder
    from peftkit.data.prepare import Prepared
    from peftkit.data.read import Found
    from peftkit.evaluate.answers import Answer
    from peftkit.model.family import Family
    from peftkit.model.load import Source


def require_metrics(resolved: Resolved) -> None:
    """Refuse metrics that are unknown or judge another kind of task, before anything is trained for them."""
    from peftkit.evaluate.metrics import find_metrics

    find_metrics(resolved.recipe.metrics, resolved.config.task.kind)


@dataclass(frozen=True)
class FoundModel:
    """A base model that is not loaded yet.

    Attributes:
        source: Where it is.
        family: How it answers.
        encoder: Writes rows for it.
        held: How its weights are held once it is loaded: as they were stored, else as `model.quantization` says.
    """

    source: Source
    family: Family
    encoder: RowEncoder
    held: str


def prepare(resolved: Resolved, ui: UI) -> tuple[RunConfig, FoundModel, Prepared]:
    """Read the data, find the base model, encode the rows, and show the check.

    Returns:
        The configuration with what was found in the data (labels, scale of scores), the base model, and the data.
    """
    from peftkit.data.encoders import make_encoder
    from peftkit.data.prepare import prepare_data
    from peftkit.data.read import read_data
    from peftkit.data.score_scale import with_score_scale
    from peftkit.model.family import family_of
    from peftkit.model.load import find_model, load_tokenizer, settings_of
    from peftkit.model.quantize import held_kind

    config = resolved.config
    source = find_model(config.model, ui.note)
    machine.trim()
    family = family_of(source, config)
    found = read_data(config, resolved.recipe)
    config = with_score_scale(with_labels(config, found), found.rows)
    encoder = make_encoder(family, load_tokenizer(source, config.model.extra), config)
    with ui.progress("rows encoded", len(found.rows) + len(found.held_out)) as bar:
        prepared = prepare_data(config, found, encoder, lambda done, total: bar.to(done))
    screen.show_data(ui, prepared.report)
    held = held_kind(settings_of(source), config.model)
    return config, FoundModel(source, family, encoder, held), prepared


def with_labels(config: RunConfig, found: Found) -> RunConfig:
    """Return the configuration with the labels that the data have, where it names none."""
    if found.labels == config.task.labels:
        return config
    return config.model_copy(update={"task": config.task.model_copy(update={"labels": found.labels})})


def judge_rows(
    model: PeftModel,
    family: Family,
    encoder: RowEncoder,
    examples: Sequence[Example],
    config: RunConfig,
    ui: UI,
    what: str,
    retries: Retries | None = None,
) -> list[Answer]:
    """Let a model answer held-out rows, with a progress bar; where memory runs out, again with fewer rows at once.

    Args:
        model: With or without its adapter.
        family: How it answers.
        encoder: The encoder that made the examples.
        examples: Held-out rows.
        config: The run's configuration.
        ui: Where progress is shown.
        what: What is shown there.
        retries: Those of a run; by default they are told to `ui`, and not kept.

    Raises:
        MemoryGoneError: One row at once was too much, or all retries are used up.
    """
    from peftkit.memory.exhausted import give_back, is_out_of_memory

    retries = retries or Retries(warn=ui.warn)
    tried = 0
    machine.trim()  # on a processor, training leaves far more in pieces than judging can use
    while True:
        size = min(retries.judged_at_once or config.evaluate.batch_size, max(1, len(examples)))
        try:
            return _judge_rows(model, family, encoder, examples, with_rows_at_once(config, size), ui, what)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failure = give_back(error, "evaluation")
        retries.shrink_judging(failure, size, tried)
        tried += 1


def worst_to_judge(examples: Sequence[Example], config: RunConfig, size: int) -> list[Example]:
    """Return the held-out rows that are judged in one batch and need most memory: the longest ones."""
    whole = config.task.kind in ("chat", "completion")
    return sorted(examples, key=lambda one: len(one) if whole else len(one.prompt_ids))[-size:]


def with_rows_at_once(config: RunConfig, size: int) -> RunConfig:
    """Return a configuration that judges so many rows at once."""
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"batch_size": size})})


def _judge_rows(
    model: PeftModel,
    family: Family,
    encoder: RowEncoder,
    examples: Sequence[Example],
    config: RunConfig,
    ui: UI,
    what: str,
) -> list[Answer]:
    from peftkit.evaluate.ask import judge_examples
    from peftkit.memory.host import HostWatch

    done = 0
    host = HostWatch() if model.device.type == "cpu" else None
    with ui.progress(what, len(examples)) as bar:

        def on_batch(count: int) -> None:
            nonlocal done
            done += count
            bar.to(done)
            if host is not None:
                host.require()

        return judge_examples(model.eval(), family, encoder, examples, config, on_batch)


def compare_answers(
    config: RunConfig, recipe: Recipe, examples: Sequence[Example], before: Sequence[Answer], after: Sequence[Answer]
) -> dict[str, Any]:
    """Judge both models' answers with the recipe's metrics, for all rows and for each group."""
    from peftkit.evaluate.compare import compare, compare_groups
    from peftkit.evaluate.metric import Judged
    from peftkit.evaluate.metrics import find_metrics

    if not examples:
        return {"before": {}, "after": {}, "difference": {}, "metrics": {}}

    def judged(answers: Sequence[Answer]) -> Judged:
        return Judged(
            [example.expected for example in examples],
            answers,
            [example.columns for example in examples],
            config.task.labels or (),
            config.task.separator,
        )

    was, now = judged(before), judged(after)
    metrics = find_metrics(recipe.metrics)
    samples = config.evaluate.bootstrap_samples
    compared = compare(was, now, metrics, samples=samples)
    if config.evaluate.group_by is not None:
        groups = [example.columns[config.evaluate.group_by] for example in examples]
        compared["by_group"] = {
            "column": config.evaluate.group_by,
            **compare_groups(was, now, groups, metrics, samples=samples),
        }
    return compared
