"""What judging held-out rows takes: answers with a cache of what was read, or the likelihood of whole texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from peftkit.config import RunConfig
from peftkit.plan.ledger import Ledger
from peftkit.plan.parts import EVALUATION

if TYPE_CHECKING:
    from peftkit.model.family import Family


@dataclass(frozen=True)
class Judged:
    """The held-out rows that are judged at once.

    Attributes:
        rows: Their number; 0 where none are judged.
        length: Tokens of the longest prompt, or of the longest text where likelihood is asked for.
        written: Tokens of the longest answer, or those that are scored.
    """

    rows: int
    length: int
    written: int


def judge(model: Any, family: Family, config: RunConfig, judged: Judged, ledger: Ledger) -> None:
    """Do on meta tensors what judging one batch does.

    Args:
        model: The model with its adapter, in evaluation mode.
        family: How it answers.
        config: The run's configuration.
        judged: The rows.
        ledger: Told when reading turns into writing.
    """
    ledger.start(EVALUATION)
    ids = torch.ones((judged.rows, judged.length), dtype=torch.int64, device="meta")
    with torch.no_grad():
        if family == "head":
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
        elif family == "seq2seq":
            _write_from_source(model, ids, judged.written)
        elif config.task.kind in ("chat", "completion"):
            _score(model, ids, judged.written)
        else:
            _write_on(model, judged, ledger, labels=bool(config.task.labels) and not config.task.multi_label)


def _write_on(model: Any, judged: Judged, ledger: Ledger, *, labels: bool) -> None:
    """Read prompts, score labels on a copy of the cache, and write the last token of an answer of the full length."""
    from peftkit.model.stepper import Stepper

    # The cache at its longest: as if the answer but for its end had been read with the prompt.
    read = [[1] * (judged.length + max(0, judged.written - 1))] * judged.rows
    step, logits = Stepper.read(model, read, padding=0)
    ledger.start(f"{EVALUATION}, writing")
    if labels:
        logits = step.fork()(logits.argmax(-1)[:, None])
    step(logits.argmax(-1)[:, None])


def _score(model: Any, ids: torch.Tensor, scored: int) -> None:
    from peftkit.evaluate.likelihood import _score_tokens

    mask = torch.zeros((len(ids), ids.shape[1] - 1), dtype=torch.bool, device="meta")
    _score_tokens(model, ids, torch.ones_like(ids), ids.new_ones((len(ids) * scored,)), mask)


def _write_from_source(model: Any, ids: torch.Tensor, written: int) -> None:
    """Read sources and write whole answers in one pass, with the cache that writing step by step ends with."""
    answers = ids.new_ones((len(ids), written))
    model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=answers, use_cache=True)
