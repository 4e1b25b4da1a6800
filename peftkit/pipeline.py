"""THE path: configuration -> data -> model -> adapter -> evaluate -> train -> evaluate -> report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit import machine, screen
from peftkit.config import RunConfig
from peftkit.recipe import Recipe
from peftkit.resolve import Resolved, resolve
from peftkit.rundir import RunFolder, write_json, write_lines, write_text
from peftkit.ui import UI, percent
from peftkit.yaml_file import to_yaml

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel, Trainer

    from peftkit.data.examples import Example, RowEncoder
    from peftkit.data.prepare import Prepared
    from peftkit.data.read import Found
    from peftkit.evaluate.answers import Answer
    from peftkit.model.family import Family
    from peftkit.model.load import Source
    from peftkit.train.callbacks import MetricsCallback


START_BATCHES = 16
"""Batches of training rows that a start of LoRA looks at, if it needs any."""


@dataclass(frozen=True)
class RunResult:
    """What a run left: its folder, the content of `summary.json`, and the folder of the adapter."""

    folder: Path
    summary: dict[str, Any]
    adapter: Path


def run(
    recipe: str,
    values: Mapping[str, Any] | None = None,
    *,
    words: Sequence[str] = (),
    config: Path | None = None,
    preset: str | None = None,
    out: Path | str | None = None,
    ui: UI | None = None,
) -> RunResult:
    """Fine-tune an adapter and say what got better.

    Args:
        recipe: Name of a recipe, or path of a recipe or configuration file.
        values: Nested values, such as `{"train": {"max_steps": 20}}`.
        words: The same as `key=value` words.
        config: YAML file with values.
        preset: Name of one of the recipe's presets.
        out: Folder of the run; by default `runs/RECIPE-DATE-TIME`.
        ui: Where progress is shown; silent by default.

    Raises:
        PeftkitError: Whatever the user can mend, as one sentence.
    """
    ui = ui or UI(quiet=True)
    resolved = resolve(recipe, words=words, file=config, preset=preset, values=values)
    require_metrics(resolved)
    started = datetime.now(UTC)
    folder = RunFolder.create(Path(out) if out else None, resolved.recipe.name, started.astimezone())
    write_text(folder.config, to_yaml(resolved.config))
    screen.show_start(ui, resolved, folder.path)
    machine.quiet_libraries()
    return _Run(resolved, folder, ui, started).go()


def check(
    recipe: str,
    values: Mapping[str, Any] | None = None,
    *,
    words: Sequence[str] = (),
    config: Path | None = None,
    preset: str | None = None,
    ui: UI | None = None,
) -> dict[str, Any]:
    """Check a run's data without loading a model's weights; return what `data.json` would hold.

    Raises:
        PeftkitError: Whatever the user can mend, as one sentence.
    """
    ui = ui or UI(quiet=True)
    resolved = resolve(recipe, words=words, file=config, preset=preset, values=values)
    require_metrics(resolved)
    machine.quiet_libraries()
    return prepare(resolved, ui)[2].report


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
) -> list[Answer]:
    """Let a model answer held-out rows, with a progress bar."""
    from peftkit.evaluate.ask import judge_examples

    done = 0
    with ui.progress(what, len(examples)) as bar:

        def on_batch(count: int) -> None:
            nonlocal done
            done += count
            bar.to(done)

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


class _Run:
    """One run on its way: the stages in order, and how long each took."""

    def __init__(self, resolved: Resolved, folder: RunFolder, ui: UI, started: datetime) -> None:
        self.resolved = resolved
        self.config = resolved.config
        self.folder = folder
        self.ui = ui
        self.started = started
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        self.ui.stage(title)
        begun = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begun, 3)

    def go(self) -> RunResult:
        from peftkit.adapter.attach import count_parameters, save_adapter
        from peftkit.model.load import load_model

        with self.folder.given_back_on_failure():
            with self.stage("data", "1/6 Data"):
                self.config, base, data = prepare(self.resolved, self.ui)
                write_text(self.folder.config, to_yaml(self.config))
                write_json(self.folder.data, data.report)
                if data.rejected:
                    write_lines(
                        self.folder.rejected,
                        ({"where": row.where, "column": row.column, "reason": row.reason} for row in data.rejected),
                    )
            with self.stage("model", "2/6 Model"):
                loaded = load_model(base.source, self.config, base.family)
                model = self.attach(loaded, base, data)
                parameters = count_parameters(model)
                screen.show_model(self.ui, self.config, base.held, model, parameters)
                trainer, watch = self.make_trainer(model, base, data)
        test = data.test
        with self.stage("evaluate_before", f"3/6 Base model on {len(test)} held-out rows"), model.disable_adapter():
            before = judge_rows(model, base.family, base.encoder, test, self.config, self.ui, "answered")
        with self.stage("train", f"4/6 Training on {len(data.train)} rows"):
            trained = self.train(trainer, watch, data)
            model, converted = self.convert(model, base, data)
            save_adapter(model, self.folder.adapter)
        with self.stage("evaluate_after", f"5/6 Adapted model on {len(test)} held-out rows"):
            after = judge_rows(model, base.family, base.encoder, test, self.config, self.ui, "answered")
        with self.stage("write", "6/6 Adapter and report"):
            self.write_predictions(test, before, after)
            compared = compare_answers(self.config, self.resolved.recipe, test, before, after)
            self.write_passport(model, base, data, compared)
        summary = self.summary(base.held, compared, trained, parameters, converted)
        write_json(self.folder.summary, summary)
        self.report()
        screen.show_end(self.ui, self.resolved, self.folder, summary)
        return RunResult(self.folder.path, summary, self.folder.adapter)

    def attach(self, loaded: PreTrainedModel, base: FoundModel, data: Prepared) -> PeftModel:
        """Attach the adapter; some starts of it look at training rows."""
        from peftkit.adapter.attach import attach
        from peftkit.adapter.starts import find_start
        from peftkit.model.family import TASK_TYPES
        from peftkit.train.batches import optimizer_steps

        adapter = self.config.adapter
        looks = adapter.method == "lora" and find_start(adapter.init_lora_weights).needs_data
        return attach(
            loaded,
            adapter,
            base=self.config.model.model_copy(update={"quantization": base.held}),
            seed=self.config.train.seed,
            task_type=TASK_TYPES[base.family],
            steps=optimizer_steps(self.config.train, len(data.train)),
            batches=self.batches(loaded, base, data, START_BATCHES) if looks else (),
        )

    def batches(
        self, model: PreTrainedModel | PeftModel, base: FoundModel, data: Prepared, most: int
    ) -> list[dict[str, Tensor]]:
        from peftkit.train.batches import first_batches

        size = self.config.train.per_device_train_batch_size
        return first_batches(data.train, base.family, base.encoder.tokenizer, size=size, most=most, device=model.device)

    def convert(self, model: PeftModel, base: FoundModel, data: Prepared) -> tuple[PeftModel, dict[str, float] | None]:
        """Turn the adapter into a LoRA if that was asked for; return the model and what the conversion lost."""
        from peftkit.adapter.convert import to_lora

        rank = self.config.adapter.save_as_lora
        if not rank:
            return model, None
        converted = to_lora(model, rank, self.batches(model, base, data, 1)[0])
        self.ui.say(f"turned into a LoRA of rank {rank}; its logits are off by {percent(converted.logit_error)}")
        if not converted.faithful:
            self.ui.warn(f"the LoRA is not close to what was trained; take adapter.save_as_lora above {rank}, or 0")
        return converted.model, {"rank": rank, "logit_error": converted.logit_error}

    def make_trainer(self, model: PeftModel, base: FoundModel, data: Prepared) -> tuple[Trainer, MetricsCallback]:
        """Make the trainer before anything slow, so that a setting that it refuses costs seconds."""
        from peftkit.train.callbacks import MetricsCallback
        from peftkit.train.trainers import make_trainer

        watch = MetricsCallback(self.folder.metrics)
        trainer = make_trainer(
            model, base.family, base.encoder.tokenizer, data.train, self.config, self.folder.checkpoints, [watch]
        )
        return trainer, watch

    def train(self, trainer: Trainer, watch: MetricsCallback, data: Prepared) -> dict[str, Any]:
        """Train, and return steps, epochs, loss, tokens and tokens per second."""
        machine.trim()
        with self.ui.progress("step", 0) as bar:
            watch.on_step = lambda line, total: bar.to(line["step"], screen.step_detail(line), total)
            trainer.train()
        trained_tokens = sum(example.trained_tokens for example in data.train)
        epochs = trainer.state.epoch or 0.0
        last = watch.last
        return {
            "steps": trainer.state.global_step,
            "epochs": round(epochs, 4),
            "final_loss": last["loss"],
            "seconds": last["seconds"],
            "tokens": last["tokens"],
            "trained_tokens": round(trained_tokens * epochs),
            "tokens_per_second": round(last["tokens"] / last["seconds"], 1),
        }

    def write_predictions(self, test: Sequence[Example], before: Sequence[Answer], after: Sequence[Answer]) -> None:
        """Write both models' answers side by side."""
        write_lines(
            self.folder.predictions,
            (
                {
                    "row": number,
                    "where": example.where,
                    "columns": dict(example.columns),
                    "expected": example.expected,
                    "before": self.prediction(example, was),
                    "after": self.prediction(example, now),
                }
                for number, (example, was, now) in enumerate(zip(test, before, after, strict=True), 1)
            ),
        )

    def prediction(self, example: Example, given: Answer) -> dict[str, Any]:
        """Return what `predictions.jsonl` holds of one answer; what the task has none of is left out."""
        from peftkit.evaluate.label_metrics import expected_labels

        kind = self.config.task.kind
        if kind in ("chat", "completion"):
            return {"nll": round(given.nll, 4), "tokens": given.tokens, "hits": given.hits}
        if kind != "classification":
            return given.as_json()
        right = given.valid and given.chosen == expected_labels(example.expected, self.config.task.separator)
        return {"label": given.label, **given.as_json(), "correct": right}

    def write_passport(self, model: PeftModel, base: FoundModel, data: Prepared, compared: Mapping[str, Any]) -> None:
        """Write the passport and the card beside the adapter."""
        from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS
        from peftkit.adapter.card import write_card
        from peftkit.adapter.passport import Base, Passport, Tokenizer, file_hash, write_passport
        from peftkit.model.fingerprint import fingerprint, text_hash, tokenizer_hash
        from peftkit.model.load import resolved_dtype

        passport = Passport(
            recipe=self.resolved.recipe.name,
            intended_use=self.resolved.recipe.intended_use,
            base=Base(
                path=self.config.model.path,
                revision=self.config.model.revision,
                architecture=type(model.get_base_model()).__name__,
                fingerprint=fingerprint(base.source),
                quantization=base.held,
                dtype=str(resolved_dtype(self.config.model)).removeprefix("torch."),
            ),
            tokenizer=Tokenizer(
                vocabulary_sha256=tokenizer_hash(base.encoder.tokenizer),
                template_sha256=text_hash(base.encoder.template),
                template=base.encoder.template,
            ),
            config=self.config,
            data={
                "source": data.report["source"],
                "rows": {name: split["rows"] for name, split in data.report["splits"].items()},
            },
            before=compared["before"],
            after=compared["after"],
            difference=compared["difference"],
            metrics=compared["metrics"],
            versions=machine.versions(),
            files={name: file_hash(self.folder.adapter / name) for name in (WEIGHTS, PEFT_CONFIG)},
        )
        write_passport(self.folder.adapter, passport)
        write_card(self.folder.adapter, passport)

    def summary(
        self,
        held: str,
        compared: Mapping[str, Any],
        trained: Mapping[str, Any],
        parameters: tuple[int, int],
        converted: dict[str, float] | None,
    ) -> dict[str, Any]:
        """Return the content of `summary.json`."""
        cuda = machine.peak_cuda()
        finished = datetime.now(UTC)
        adapter_bytes = sum(file.stat().st_size for file in self.folder.adapter.glob("adapter_*"))
        return {
            "schema": 1,
            "recipe": self.resolved.recipe.name,
            "preset": self.config.preset,
            "model": self.config.model.path,
            "quantization": held,
            "seed": self.config.train.seed,
            "started": self.started.isoformat(timespec="seconds"),
            "finished": finished.isoformat(timespec="seconds"),
            **compared,
            "time": {"total": round((finished - self.started).total_seconds(), 3), "stages": self.seconds},
            "memory": {
                "peak_rss": machine.peak_resident(),
                "peak_cuda_allocated": cuda[0] if cuda else None,
                "peak_cuda_reserved": cuda[1] if cuda else None,
            },
            "tokens_per_second": trained["tokens_per_second"],
            "tokens": {"train": trained["tokens"], "trained": trained["trained_tokens"]},
            "train": {name: trained[name] for name in ("steps", "epochs", "final_loss", "seconds")},
            "adapter": {
                "method": self.config.adapter.method,
                "r": self.config.adapter.r,
                "trainable_parameters": parameters[0],
                "total_parameters": parameters[1],
                "bytes": adapter_bytes,
                **({"converted": converted} if converted else {}),
            },
            "versions": machine.versions(),
            "machine": machine.describe(),
        }

    def report(self) -> None:
        from peftkit.evaluate.report import write_report

        write_report(self.folder.path)
