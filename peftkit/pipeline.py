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
from peftkit.resolve import Resolved, resolve
from peftkit.rundir import RunFolder, write_json, write_lines, write_text
from peftkit.ui import UI
from peftkit.yaml_file import to_yaml

if TYPE_CHECKING:
    from peft import PeftModel

    from peftkit.data.encode import Encoder, Example
    from peftkit.data.prepare import Prepared
    from peftkit.evaluate.answers import Answer
    from peftkit.model.load import Source
    from peftkit.train.callbacks import MetricsCallback
    from peftkit.train.trainer import AdapterTrainer


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
    machine.quiet_libraries()
    _, encoder = find_base(resolved.config, ui)
    return prepare(resolved, encoder, ui).report


def find_base(config: RunConfig, ui: UI) -> tuple[Source, Encoder]:
    """Find the base model and make the encoder from its tokenizer."""
    from peftkit.data.encode import Encoder
    from peftkit.model.load import find_model, load_tokenizer

    source = find_model(config.model, ui.note)
    machine.trim()
    encoder = Encoder(
        load_tokenizer(source),
        config.task,
        max_length=config.train.max_length,
        template_kwargs=config.model.chat_template_kwargs,
    )
    return source, encoder


def prepare(resolved: Resolved, encoder: Encoder, ui: UI) -> Prepared:
    """Prepare the data and show the check."""
    from peftkit.data.prepare import prepare_data

    prepared = prepare_data(resolved.config, resolved.recipe, encoder)
    screen.show_data(ui, prepared.report)
    return prepared


def answer_rows(
    model: PeftModel, encoder: Encoder, examples: Sequence[Example], config: RunConfig, ui: UI, what: str
) -> list[Answer]:
    """Let a model answer held-out rows, with a progress bar."""
    from peftkit.evaluate.answers import answer

    done = 0
    with ui.progress(what, len(examples)) as bar:

        def on_batch(count: int) -> None:
            nonlocal done
            done += count
            bar.to(done)

        return answer(
            model.eval(),
            encoder.tokenizer,
            [example.prompt_ids for example in examples],
            label_ids=encoder.label_ids(),
            end_ids=encoder.end_ids,
            max_new_tokens=config.evaluate.max_new_tokens,
            batch_size=config.evaluate.batch_size,
            on_batch=on_batch,
        )


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
        from peftkit.adapter.attach import attach, count_parameters
        from peftkit.model.load import load_model

        with self.folder.given_back_on_failure():
            with self.stage("data", "1/6 Data"):
                source, encoder = find_base(self.config, self.ui)
                data = prepare(self.resolved, encoder, self.ui)
                write_json(self.folder.data, data.report)
                if data.rejected:
                    write_lines(
                        self.folder.rejected,
                        ({"where": row.where, "column": row.column, "reason": row.reason} for row in data.rejected),
                    )
            with self.stage("model", "2/6 Model"):
                base = load_model(source, self.config.model)
                model = attach(base, self.config.adapter, base=self.config.model, seed=self.config.train.seed)
                parameters = count_parameters(model)
                screen.show_model(self.ui, self.config, model, parameters)
                trainer, watch = self.make_trainer(model, encoder, data)
        test = data.test
        with self.stage("evaluate_before", f"3/6 Base model on {len(test)} held-out rows"), model.disable_adapter():
            before = answer_rows(model, encoder, test, self.config, self.ui, "answered")
        with self.stage("train", f"4/6 Training on {len(data.train)} rows"):
            trained = self.train(trainer, watch, data)
        with self.stage("evaluate_after", f"5/6 Adapted model on {len(test)} held-out rows"):
            after = answer_rows(model, encoder, test, self.config, self.ui, "answered")
        with self.stage("write", "6/6 Adapter and report"):
            compared = self.compare(test, before, after)
            self.write_adapter(model, encoder, source, data, compared)
        summary = self.summary(compared, trained, parameters)
        write_json(self.folder.summary, summary)
        self.report()
        screen.show_end(self.ui, self.resolved, self.folder, summary)
        return RunResult(self.folder.path, summary, self.folder.adapter)

    def make_trainer(
        self, model: PeftModel, encoder: Encoder, data: Prepared
    ) -> tuple[AdapterTrainer, MetricsCallback]:
        """Make the trainer before anything slow, so that a setting that it refuses costs seconds."""
        from peftkit.model.load import resolved_dtype
        from peftkit.train.callbacks import MetricsCallback
        from peftkit.train.trainer import AdapterTrainer, training_arguments, training_dataset

        watch = MetricsCallback(self.folder.metrics)
        arguments = training_arguments(self.config.train, self.folder.checkpoints, resolved_dtype(self.config.model))
        trainer = AdapterTrainer(model, arguments, training_dataset(data.train), encoder.tokenizer, [watch])
        return trainer, watch

    def train(self, trainer: AdapterTrainer, watch: MetricsCallback, data: Prepared) -> dict[str, Any]:
        """Train, and return steps, epochs, loss, tokens and tokens per second."""
        machine.trim()
        with self.ui.progress("step", 0) as bar:
            watch.on_step = lambda line, total: bar.to(line["step"], screen.step_detail(line), total)
            trainer.train()
        trained_tokens = sum(len(example.completion_ids) for example in data.train)
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

    def compare(self, test: Sequence[Example], before: Sequence[Answer], after: Sequence[Answer]) -> dict[str, Any]:
        """Write both models' answers side by side, and judge them."""
        from peftkit.evaluate.metrics import Judged, compare

        write_lines(
            self.folder.predictions,
            (
                {
                    "row": number,
                    "where": example.where,
                    "columns": dict(example.columns),
                    "expected": example.expected,
                    **{
                        which: {
                            "answer": given.text,
                            "label": given.label,
                            "correct": given.label == example.expected,
                            "scores": dict(given.scores),
                        }
                        for which, given in (("before", was), ("after", now))
                    },
                }
                for number, (example, was, now) in enumerate(zip(test, before, after, strict=True), 1)
            ),
        )
        if not test:
            return {"before": {}, "after": {}, "difference": {}}
        expected = [example.expected for example in test]
        labels = self.config.task.labels or ()
        return compare(
            Judged.of(expected, before, labels),
            Judged.of(expected, after, labels),
            self.resolved.recipe.metrics,
            samples=self.config.evaluate.bootstrap_samples,
        )

    def write_adapter(
        self, model: PeftModel, encoder: Encoder, source: Source, data: Prepared, compared: Mapping[str, Any]
    ) -> None:
        """Write the adapter with its passport and card."""
        from peftkit.adapter.attach import PEFT_CONFIG, WEIGHTS, save_adapter
        from peftkit.adapter.card import write_card
        from peftkit.adapter.passport import Base, Passport, Tokenizer, file_hash, write_passport
        from peftkit.model.fingerprint import fingerprint, text_hash, tokenizer_hash
        from peftkit.model.load import resolved_dtype

        save_adapter(model, self.folder.adapter)
        passport = Passport(
            recipe=self.resolved.recipe.name,
            intended_use=self.resolved.recipe.intended_use,
            base=Base(
                path=self.config.model.path,
                revision=self.config.model.revision,
                architecture=type(model.get_base_model()).__name__,
                fingerprint=fingerprint(source),
                quantization=self.config.model.quantization,
                dtype=str(resolved_dtype(self.config.model)).removeprefix("torch."),
            ),
            tokenizer=Tokenizer(
                vocabulary_sha256=tokenizer_hash(encoder.tokenizer),
                template_sha256=text_hash(encoder.template),
                template=encoder.template,
            ),
            config=self.config,
            data={
                "source": data.report["source"],
                "rows": {name: split["rows"] for name, split in data.report["splits"].items()},
            },
            before=compared["before"],
            after=compared["after"],
            difference=compared["difference"],
            versions=machine.versions(),
            files={name: file_hash(self.folder.adapter / name) for name in (WEIGHTS, PEFT_CONFIG)},
        )
        write_passport(self.folder.adapter, passport)
        write_card(self.folder.adapter, passport)

    def summary(
        self, compared: Mapping[str, Any], trained: Mapping[str, Any], parameters: tuple[int, int]
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
            "quantization": self.config.model.quantization,
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
            },
            "versions": machine.versions(),
            "machine": machine.describe(),
        }

    def report(self) -> None:
        from peftkit.evaluate.report import write_report

        write_report(self.folder.path)
