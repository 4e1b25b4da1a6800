"""Use a trained adapter: answer new texts, and judge a run again from what is on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from peftkit import machine, screen
from peftkit.errors import ConfigError, DataError
from peftkit.resolve import resolve
from peftkit.rundir import RunFolder, write_json
from peftkit.side_by_side import require_texts
from peftkit.stages import compare_answers, judge_rows
from peftkit.ui import UI


def predict(adapter: Path | str, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Answer texts with an adapter, asked as its recipe asks.

    Args:
        adapter: Folder of the adapter, or of the run that wrote it.
        texts: One text each.

    Returns:
        For each text: `text` and `answer`; of labels `label` (None for an answer that is none) or `labels`, and
        `scores`, the log-likelihood of each; of a score its `value`.

    Raises:
        PeftkitError: The adapter or its base model is not usable, or there is no text.
    """
    from peftkit.adapter.trained import open_adapter

    require_texts(texts)
    trained = open_adapter(Path(adapter))
    return [{"text": text, **one.as_json()} for text, one in zip(texts, trained.predict(texts), strict=True)]


def evaluate_run(
    folder: Path,
    *,
    words: Sequence[str] = (),
    split: str = "test",
    max_rows: int | None = None,
    ui: UI | None = None,
) -> dict[str, Any]:
    """Judge a run's adapter against its base model again, and keep the result in the run's folder.

    Args:
        folder: Folder of the run.
        words: `key=value` words for what is judged otherwise than in the run: keys of `evaluate` alone.
        split: `test` or `validation`.
        max_rows: Judge at most this many rows; by default as many as the run did.
        ui: Where progress is shown.

    Raises:
        ConfigError: A word is about something else than judging.
        PeftkitError: The folder holds no run, or its adapter, base model or data are not usable.
    """
    from peftkit.adapter.trained import open_adapter
    from peftkit.data.prepare import prepare_data
    from peftkit.data.read import read_data

    ui = ui or UI(quiet=True)
    if split not in ("test", "validation"):
        raise ConfigError(f"--split {split} is not one of test, validation")
    for word in words:
        if not word.startswith("evaluate."):
            key = word.partition("=")[0]
            raise ConfigError(f"{key}: an evaluation changes keys of evaluate.* alone; all else is as in the run")
    run = RunFolder.open(folder)
    values = {"evaluate": {"max_rows": max_rows}} if max_rows else None
    resolved = resolve(str(run.config), words=words, values=values, own_run=True)
    machine.quiet_libraries()
    trained = open_adapter(run.adapter, ui.note)
    config = resolved.config
    data = prepare_data(config, read_data(config, resolved.recipe), trained.encoder)
    if data.report["source"] != trained.passport.data["source"]:
        ui.warn("the data have changed since the run; these figures are not those of the run's own rows")
    examples = data.test if split == "test" else data.validation[: config.evaluate.max_rows]
    if not examples:
        raise DataError(f"there are no {split} rows to judge")
    ui.stage(f"{len(examples)} {split} rows")
    with trained.model.disable_adapter():
        before = judge_rows(trained.model, trained.family, trained.encoder, examples, config, ui, "base")
    after = judge_rows(trained.model, trained.family, trained.encoder, examples, config, ui, "adapted")
    result = {"split": split, **compare_answers(config, resolved.recipe, examples, before, after)}
    file = run.path / "evaluations" / f"{split}-{datetime.now():%Y%m%d-%H%M%S-%f}.json"
    file.parent.mkdir(exist_ok=True)
    write_json(file, result)
    screen.show_metrics(ui, result)
    ui.say(f"{file}")
    return result
