"""What a run writes down of its answers and its adapter: `predictions.jsonl`, the passport and the card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit import machine
from peftkit.config import RunConfig
from peftkit.recipe import Recipe
from peftkit.rundir import write_lines
from peftkit.stages import FoundModel

if TYPE_CHECKING:
    from peft import PeftModel

    from peftkit.data.examples import Example
    from peftkit.data.prepare import Prepared
    from peftkit.evaluate.answers import Answer


def write_predictions(
    path: Path, config: RunConfig, test: Sequence[Example], before: Sequence[Answer], after: Sequence[Answer]
) -> None:
    """Write both models' answers to the held-out rows side by side."""
    write_lines(
        path,
        (
            {
                "row": number,
                "where": example.where,
                "columns": dict(example.columns),
                "expected": example.expected,
                "before": _prediction(config, example, was),
                "after": _prediction(config, example, now),
            }
            for number, (example, was, now) in enumerate(zip(test, before, after, strict=True), 1)
        ),
    )


def _prediction(config: RunConfig, example: Example, given: Answer) -> dict[str, Any]:
    """Return what is kept of one answer; what the task has none of is left out."""
    from peftkit.evaluate.label_metrics import expected_labels

    if config.task.kind in ("chat", "completion"):
        return {"nll": round(given.nll, 4), "tokens": given.tokens, "hits": given.hits}
    if config.task.kind != "classification":
        return given.as_json()
    right = given.valid and given.chosen == expected_labels(example.expected, config.task.separator)
    return {"label": given.label, **given.as_json(), "correct": right}


def write_passport_and_card(
    folder: Path,
    recipe: Recipe,
    config: RunConfig,
    model: PeftModel,
    base: FoundModel,
    data: Prepared,
    compared: Mapping[str, Any],
) -> None:
    """Write the passport and the card beside an adapter that is saved."""
    from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
    from peftkit.adapter.card import write_card
    from peftkit.adapter.passport import Base, Passport, Tokenizer, file_hash, short_digests, write_passport
    from peftkit.model.fingerprint import base_digests, combined, text_hash, tokenizer_hash
    from peftkit.model.licence import base_licence
    from peftkit.model.load import resolved_dtype

    digests = base_digests(base.source)
    tokenizer = base.encoder.tokenizer
    passport = Passport(
        recipe=recipe.name,
        intended_use=recipe.intended_use,
        base=Base(
            path=config.model.path,
            revision=config.model.revision,
            architecture=type(model.get_base_model()).__name__,
            fingerprint=combined(digests),
            tensors=short_digests(digests),
            quantization=base.held,
            dtype=str(resolved_dtype(config.model)).removeprefix("torch."),
            licence=base_licence(config.model, base.source),
        ),
        tokenizer=Tokenizer(
            vocabulary_sha256=tokenizer_hash(tokenizer),
            template_sha256=text_hash(base.encoder.template),
            template=base.encoder.template,
            added_tokens=tokenizer.get_added_vocab(),
        ),
        config=config,
        data={
            "source": data.report["source"],
            "rows": {name: split["rows"] for name, split in data.report["splits"].items()},
        },
        before=compared["before"],
        after=compared["after"],
        difference=compared["difference"],
        metrics=compared["metrics"],
        versions=machine.versions(),
        files={name: file_hash(folder / name) for name in (WEIGHTS, PEFT_CONFIG)},
    )
    write_passport(folder, passport)
    write_card(folder, passport)
