"""What a contestant is given: one JSON file with the model, the rows as token ids, and every setting of the task."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """One experiment, ready to be trained.

    Attributes:
        model: Folder or hub id of the base model.
        quantization: `none`, `nf4`, `fp4` or `int8`.
        dtype: What is computed in: `float32`, `bfloat16` or `float16`.
        attn_implementation: Attention kernel; None for transformers' choice.
        method: Adapter method, by peftkit's name.
        r: Rank; None for methods without.
        lora_alpha: Scale of the update; None as for `r`.
        lora_dropout: Dropout before the update.
        target_modules: Layers that get an adapter.
        steps: Optimizer steps, those of the warm-up among them.
        warmup_steps: Steps that are not counted.
        batch: Rows of a forward pass.
        accumulation: Forward passes of a step.
        max_length: Tokens of the longest row that is allowed.
        learning_rate: Its peak.
        lr_scheduler_type: Its schedule, by transformers' name.
        warmup_fraction: Share of the steps over which it rises.
        weight_decay: Decoupled weight decay.
        max_grad_norm: To which the gradient is clipped.
        seed: Of the adapter's start and of the order of rows.
        same_batches: Whether rows are taken in the order in which they stand here.
        input_ids: Token ids of each row.
        labels: The ids that are trained, -100 for the others.
        held_out_ids: Token ids of rows that are not trained on.
        held_out_labels: Their labels.
        limit: Bytes of a GPU that may be used; None for all.
        config: The run's whole configuration, for peftkit itself.
    """

    model: str
    quantization: str
    dtype: str
    attn_implementation: str | None
    method: str
    r: int | None
    lora_alpha: float | None
    lora_dropout: float
    target_modules: tuple[str, ...]
    steps: int
    warmup_steps: int
    batch: int
    accumulation: int
    max_length: int
    learning_rate: float
    lr_scheduler_type: str
    warmup_fraction: float
    weight_decay: float
    max_grad_norm: float
    seed: int
    same_batches: bool
    input_ids: list[list[int]]
    labels: list[list[int]]
    held_out_ids: list[list[int]]
    held_out_labels: list[list[int]]
    limit: int | None
    config: dict[str, Any]

    @classmethod
    def read(cls, file: Path) -> Job:
        """Read a job's file."""
        content = json.loads(file.read_text(encoding="utf-8"))
        return cls(**{**content, "target_modules": tuple(content["target_modules"])})

    def write(self, file: Path) -> None:
        """Write a job's file."""
        file.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @property
    def targets(self) -> str | list[str]:
        """The layers that get an adapter, as PEFT takes them."""
        return self.target_modules[0] if self.target_modules == ("all-linear",) else list(self.target_modules)
