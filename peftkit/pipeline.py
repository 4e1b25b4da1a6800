"""THE path: configuration -> data -> model -> adapter -> evaluate -> train -> evaluate -> report."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit import machine, screen
from peftkit.checkpoint.lock import alone_with
from peftkit.errors import ConfigError
from peftkit.forecasting import RunForecast
from peftkit.memory.retries import Retries
from peftkit.record import write_passport_and_card, write_predictions
from peftkit.resolve import Resolved, resolve
from peftkit.rundir import RunFolder, read_json, write_json, write_lines
from peftkit.stages import FoundModel, compare_answers, judge_rows, prepare, require_metrics
from peftkit.stopping import Stop, Stopped
from peftkit.summary import RunTime, make_summary
from peftkit.ui import UI, percent
from peftkit.yaml_file import write_yaml

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

    from peftkit.data.prepare import Prepared
    from peftkit.resuming import Begun
    from peftkit.train.callbacks import MetricsCallback
    from peftkit.train.shared import SharedTrainer


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
    resume: bool = False,
    time_limit: float | None = None,
    ui: UI | None = None,
    force: bool = False,
) -> RunResult:
    """Fine-tune an adapter and say what got better.

    Args:
        recipe: Name of a recipe, or path of a recipe or configuration file.
        values: Nested values, such as `{"train": {"max_steps": 20}}`.
        words: The same as `key=value` words.
        config: YAML file with values.
        preset: Name of one of the recipe's presets.
        out: Folder of the run; by default `runs/RECIPE-DATE-TIME`.
        resume: Go on with the run that `out` holds, if it holds one.
        time_limit: Seconds after which the run is saved and stopped.
        ui: Where progress is shown; silent by default.
        force: Start even if the forecast says that the run does not fit.

    Raises:
        PeftkitError: Whatever the user can mend, as one sentence.
        Stopped: A signal came or the time was up; all is saved.
    """
    machine.let_segments_grow()
    ui = ui or UI(quiet=True)
    stop = Stop(time_limit)
    with stop.listening():
        resolved = resolve(recipe, words=words, file=config, preset=preset, values=values)
        require_metrics(resolved)
        if resume and out is None:
            raise ConfigError("--resume goes on with a run that is there; name its folder with --out")
        if resume and RunFolder(Path(out or "")).config.is_file():
            return _go_on(resolved, Path(out or ""), ui, stop)
        started = datetime.now(UTC)
        folder = RunFolder.create(Path(out) if out else None, resolved.recipe.name, started.astimezone())
        with folder.given_back_on_failure():
            write_yaml(folder.config, resolved.config)
            screen.show_start(ui, resolved, folder.path)
        machine.quiet_libraries()
        return _Run(resolved, folder, ui, started, stop, force=force).go()


def resume(
    folder: Path | str, *, words: Sequence[str] = (), time_limit: float | None = None, ui: UI | None = None
) -> RunResult:
    """Go on with a run that was stopped or killed, as if that had not happened.

    Args:
        folder: Folder of the run.
        words: `key=value` words for what may change.
        time_limit: Seconds after which the run is saved and stopped again.
        ui: Where progress is shown; silent by default.

    Raises:
        PeftkitError: The folder holds no run, or what is there is damaged or another run's.
        Stopped: A signal came or the time was up; all is saved.
    """
    machine.let_segments_grow()
    ui = ui or UI(quiet=True)
    stop = Stop(time_limit)
    with stop.listening():
        run_folder = RunFolder.open(Path(folder))
        return _go_on(resolve(str(run_folder.config), words=words, own_run=True), run_folder.path, ui, stop)


def _go_on(resolved: Resolved, path: Path, ui: UI, stop: Stop) -> RunResult:
    folder = RunFolder.open(path)
    if folder.summary.is_file():
        _finish(folder)
        ui.say(f"the run in '{path}' is finished; there is nothing left to do")
        return RunResult(path, read_json(folder.summary), folder.adapter)
    require_metrics(resolved)
    ui.say(f"peftkit resume {path}", style="bold")
    machine.quiet_libraries()
    return _Run(resolved, folder, ui, datetime.now(UTC), stop, resumed=True).go()


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


def _finish(folder: RunFolder) -> None:
    """Write the report from the run's files, and take away what only an unfinished run needs."""
    from peftkit.checkpoint.answers import forget_answers
    from peftkit.evaluate.report import write_report

    with alone_with(folder.lock):
        folder.take_away_leftovers()
        if not folder.report.is_file():
            write_report(folder.path)
        forget_answers(folder.checkpoints)


class _Run:
    """One run on its way: the stages in order, and how long each took."""

    def __init__(
        self,
        resolved: Resolved,
        folder: RunFolder,
        ui: UI,
        started: datetime,
        stop: Stop,
        *,
        resumed: bool = False,
        force: bool = False,
    ) -> None:
        self.stop = stop
        self.resumed = resumed
        self.resolved = resolved
        self.config = resolved.config
        self.folder = folder
        self.ui = ui
        self.started = started
        self.forecast = RunForecast(folder, ui, resumed=resumed, force=force)
        self.retries = Retries(folder.retries, ui.warn)
        self.seconds: dict[str, float] = {}
        self.went_on_after: int | None = None
        self.earlier_seconds = 0.0

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        self.stop.require_none()
        self.ui.stage(title)
        begun = time.perf_counter()
        with self.stop.before_errors():
            yield
        self.seconds[name] = round(time.perf_counter() - begun, 3)

    def go(self) -> RunResult:
        with alone_with(self.folder.lock):
            self.folder.take_away_leftovers()
            try:
                summary = self._go()
            except Stopped as stopped:
                if self.folder.config.exists():
                    again = f"go on with: peftkit resume {shlex.quote(str(self.folder.path))}"
                else:
                    again = "nothing was begun, and nothing is left behind"
                self.ui.warn(f"stopped by {stopped.reason}; {again}")
                raise
        _finish(self.folder)
        screen.show_end(self.ui, self.resolved, self.folder, summary)
        return RunResult(self.folder.path, summary, self.folder.adapter)

    def _go(self) -> dict[str, Any]:
        from peftkit.adapter.attach import count_parameters
        from peftkit.memory.advice import advised
        from peftkit.memory.first import worst_batches_first
        from peftkit.model.load import load_model
        from peftkit.resuming import begin

        with nullcontext() if self.resumed else self.folder.given_back_on_failure():
            with self.stage("data", "1/6 Data"):
                self.config, base, data = prepare(self.resolved, self.ui)
                self.config = self.forecast.choose_layers(self.config, base, data)
                self.forecast.make(self.config, base, data)
            with self.stage("model", "2/6 Model"), advised(self.config, base, data, self.retries):
                loaded = load_model(base.source, self.config, base.family, self.retries.again)
                model = self.attach(loaded, base, data)
                parameters = count_parameters(model)
                screen.show_model(self.ui, self.config, base.held, model, parameters)
                begun = begin(
                    self.folder, self.config, base, data, model, self.ui, self.stop, self.retries, resumed=self.resumed
                )
                self.write_down(data)
                trainer, watch = self.make_trainer(model, base, data, begun)
                step = begun.saving.checkpoints.newest_step or 0
                worst_batches_first(trainer, model, base, data, self.config, self.retries, step)
        with advised(self.config, base, data, self.retries):
            compared, trained, converted = self.train_and_judge(model, base, data, begun, trainer, watch)
        summary = make_summary(
            self.config,
            self.resolved.recipe.name,
            self.folder.adapter,
            self.spent(),
            held=base.held,
            compared=compared,
            trained=trained,
            parameters=parameters,
            converted=converted,
            forecast=self.forecast.beside_measured(trained["seconds_per_step"]),
            memory_retries=self.retries.events,
        )
        write_json(self.folder.summary, summary)
        return summary

    def train_and_judge(
        self,
        model: PeftModel,
        base: FoundModel,
        data: Prepared,
        begun: Begun,
        trainer: SharedTrainer,
        watch: MetricsCallback,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, float] | None]:
        """Return the comparison of both models, what `train` returns, and what a conversion lost."""
        from peftkit.adapter.attach import save_adapter
        from peftkit.checkpoint.answers import kept_answers
        from peftkit.memory.exhausted import once_more
        from peftkit.train.batches import rows_trained

        test, judged = data.test, (base.family, base.encoder, data.test, self.config, self.ui, "answered", self.retries)
        with self.stage("evaluate_before", f"3/6 Base model on {len(test)} held-out rows"), model.disable_adapter():
            before = kept_answers(
                self.folder.checkpoints, self.config, begun.identity, lambda: judge_rows(model, *judged)
            )
        with self.stage("train", f"4/6 Training on {rows_trained(self.config.train, len(data.train))} rows"):
            trained = self.train(trainer, watch, data, begun)
            model, converted = self.convert(model, base, data)
            once_more(lambda: save_adapter(model, self.folder.adapter), "save", self.retries.again)
        with self.stage("evaluate_after", f"5/6 Adapted model on {len(test)} held-out rows"):
            after = judge_rows(model, *judged)
        with self.stage("write", "6/6 Adapter and report"):
            write_predictions(self.folder.predictions, self.config, test, before, after)
            recipe, used = self.resolved.recipe, self.retries.applied(self.config)
            compared = compare_answers(self.config, recipe, test, before, after)
            write_passport_and_card(self.folder.adapter, recipe, used, model, base, data, compared)
        return compared, trained, converted

    def spent(self) -> RunTime:
        went_on = {"went_on_after_step": self.went_on_after} if self.resumed else {}
        return RunTime(self.started, self.seconds, self.earlier_seconds, went_on)

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

    def write_down(self, data: Prepared) -> None:
        """Write the configuration with what was found in the data, the data check, and the rows that were rejected."""
        write_yaml(self.folder.config, self.config)
        write_json(self.folder.data, data.report)
        if data.rejected:
            write_lines(
                self.folder.rejected,
                ({"where": row.where, "column": row.column, "reason": row.reason} for row in data.rejected),
            )

    def make_trainer(
        self, model: PeftModel, base: FoundModel, data: Prepared, begun: Begun
    ) -> tuple[SharedTrainer, MetricsCallback]:
        """Make the trainer before anything slow, so that a setting that it refuses costs seconds."""
        from peftkit.train.callbacks import MetricsCallback
        from peftkit.train.trainers import make_trainer

        watch = MetricsCallback(self.folder.metrics, warn=self.ui.warn, retries=self.retries.events)
        checkpoints, saving = self.folder.checkpoints, begun.saving
        trainer = make_trainer(
            model, base.family, base.encoder.tokenizer, data.train, self.config, checkpoints, [watch], saving
        )
        if self.retries.micro_batch is not None:
            trainer.take_batches(*self.retries.micro_batch)
        return trainer, watch

    def train(self, trainer: SharedTrainer, watch: MetricsCallback, data: Prepared, begun: Begun) -> dict[str, Any]:
        """Train, from the newest checkpoint if there is one; return steps, epochs, loss, tokens, tokens per second."""
        from peftkit.train.surviving import train_through

        machine.trim()
        if begun.start is not None:
            self.went_on_after = begun.saving.checkpoints.newest_step
            watch.go_on_after(self.went_on_after or 0)
            self.earlier_seconds = watch.last.get("seconds", 0.0)
            self.ui.say(f"goes on after step {self.went_on_after}")
        with self.stop.awaited(), self.ui.progress("step", 0) as bar:
            watch.on_step = lambda line, total: bar.to(line["step"], screen.step_detail(line), total)
            train_through(trainer, self.retries, begun.start, watch.go_on_after)
        trained_tokens = sum(example.trained_tokens for example in data.train)
        epochs = trainer.state.epoch or 0.0
        last = watch.last
        return {
            "steps": trainer.state.global_step,
            "epochs": round(epochs, 4),
            "final_loss": last["loss"],
            "seconds": last["seconds"],
            "seconds_per_step": watch.seconds_per_step(begun.saving.seconds),
            "tokens": last["tokens"],
            "trained_tokens": round(trained_tokens * epochs),
            "tokens_per_second": round(last["tokens"] / last["seconds"], 1),
            "saving_seconds": round(begun.saving.seconds, 3),
        }
