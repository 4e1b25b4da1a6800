"""Hold the forecast of memory against what real steps take.

python benchmarks/forecast.py            # small models on this processor: bytes of live tensors
python benchmarks/forecast.py --cuda     # shapes of up to 8B with random weights on a GPU: torch's own counts, and time
"""

import argparse
import gc
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from forecast_models import folder_of

from peftkit import machine
from peftkit.bench.envelope import result_of
from peftkit.bench.result import Run, write_result
from peftkit.config import RunConfig
from peftkit.errors import first_line
from peftkit.model.family import Family
from peftkit.model.load import find_model, settings_of
from peftkit.plan.forecast import device_of
from peftkit.plan.measure import Measured, measure_random, measure_run
from peftkit.plan.outline import outline_of, shallow
from peftkit.plan.rates import this_machine
from peftkit.plan.shapes import known_settings
from peftkit.plan.step import Batch, Device, trace_step
from peftkit.plan.time import step_time

HERE = Path(__file__).parent
LABELS = ("negative", "positive")


@dataclass(frozen=True)
class Case:
    """One combination.

    Attributes:
        model: Name of a small model of `forecast_models`, or of a well-known one.
        batch: The rows of each forward pass.
        quantization: How the frozen weights are held.
        dtype: What is computed in.
        family: How the model answers.
        adapter: Values of the adapter's group.
        train: Values of the group of training.
        task: Values of the task's group.
    """

    model: str
    batch: Batch
    quantization: str = "none"
    dtype: str = "float32"
    family: Family = "causal"
    adapter: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)

    def config(self, path: str) -> RunConfig:
        """Return the run's configuration."""
        kind = "classification" if self.family == "head" else "generation"
        train = {
            "max_steps": 100,
            "per_device_train_batch_size": self.batch.rows,
            "max_length": self.batch.length,
            **self.train,
        }
        return RunConfig(
            recipe="sentiment",
            task={"kind": kind, "labels": LABELS, **self.task},
            model={"path": path, "quantization": self.quantization, "dtype": self.dtype},
            adapter={"r": 8, **self.adapter},
            train=train,
        )

    @property
    def said(self) -> str:
        """The combination in a few words."""
        settings = {**self.task, **self.adapter, **self.train}
        settings.pop("max_length", None)
        own = " ".join(f"{key}={_plain(value)}" for key, value in settings.items())
        trained = f", {self.batch.trained} trained" if self.family != "head" else ""
        padded = ", padded" if self.batch.padded else ""
        return f"{self.batch.rows}x{self.batch.length}{trained}{padded} {own}".strip()


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return json.dumps(value) if isinstance(value, dict | bool) else str(value)


CHECKPOINTING = {"gradient_checkpointing": True}
EVERY_SECOND = {**CHECKPOINTING, "extra": {"activation_checkpointing_kwargs": {"every_n_layers": 2}}}
ROWS = Batch(4, 256, 200)
CPU_CASES = (
    Case("llama", ROWS),
    Case("llama", ROWS, "nf4"),
    Case("llama", ROWS, "fp4"),
    Case("llama", ROWS, "int8"),
    Case("llama", ROWS, train=CHECKPOINTING),
    Case("llama", ROWS, "nf4", train=CHECKPOINTING),
    Case("llama", ROWS, "int8", train=CHECKPOINTING),
    Case("llama", ROWS, "nf4", train=EVERY_SECOND),
    Case("llama", Batch(8, 128, 100, padded=True), "nf4"),
    Case("llama", Batch(8, 128, 3, padded=True), "nf4"),
    Case("llama", Batch(1, 1024, 1000), "nf4"),
    Case("llama", Batch(2, 512, 300), "nf4", train={"packing": True}),
    Case("llama", Batch(2, 128, 60), "nf4", train={"packing": True, "max_length": 512}),
    Case("llama", Batch(2, 128, 100), "nf4", train={"gradient_accumulation_steps": 4}),
    Case("llama", ROWS, "nf4", adapter={"r": 64}),
    Case("llama", ROWS, "nf4", adapter={"r": 64, "use_rslora": True}),
    Case("llama", ROWS, "nf4", adapter={"use_dora": True}),
    Case("llama", ROWS, adapter={"use_dora": True, "r": 16}, train=CHECKPOINTING),
    Case("llama", ROWS, "nf4", adapter={"lora_dropout": 0.1}),
    Case("llama", ROWS, "nf4", adapter={"target_modules": ("q_proj", "v_proj")}),
    Case("llama", ROWS, "nf4", adapter={"method": "miss", "r": 16}),
    Case("llama", ROWS, "nf4", train={"optim": "adamw_8bit"}),
    Case("llama", ROWS, "nf4", train={"label_smoothing": 0.1}),
    Case("llama", ROWS, "nf4", train={"loss": "focal"}),
    Case("llama", ROWS, "nf4", "bfloat16"),
    Case("llama", ROWS, "nf4", "bfloat16", train=CHECKPOINTING),
    Case("qwen3", ROWS, "nf4"),
    Case("qwen3", ROWS, "nf4", "bfloat16", train=CHECKPOINTING),
    Case("gemma2", ROWS, "nf4"),
    Case("gemma2", ROWS, train=CHECKPOINTING),
    Case("llama", Batch(8, 128, 0, padded=True), "nf4", family="head", task={"answer": "head"}),
    Case("bert", Batch(16, 128, 0, padded=True), family="head"),
    Case("bert", Batch(16, 128, 0, padded=True), "nf4", family="head", train=CHECKPOINTING),
    Case("modernbert", Batch(16, 128, 0, padded=True), family="head"),
    Case("bert", Batch(16, 128, 0), family="head", task={"kind": "regression"}),
    Case("t5", Batch(8, 128, 32, padded=True), family="seq2seq"),
    Case("smollm2-135m-instruct", Batch(4, 128, 20, padded=True), "nf4"),
)
"""Combinations that a processor measures in a minute or two."""

SMALL = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
"""What a rehearsal's models have."""
LONG = Batch(1, 4096, 4000)
CUDA_CASES = (
    *(
        Case(name, batch, kind, "bfloat16", train=train)
        for name in ("HuggingFaceTB/SmolLM2-1.7B", "Qwen/Qwen3-4B")
        for batch, train in ((Batch(4, 1024, 1000), {}), (LONG, CHECKPOINTING), (Batch(2, 2048, 2000), EVERY_SECOND))
        for kind in ("none", "nf4", "int8")
    ),
    Case("meta-llama/Llama-3.1-8B", Batch(2, 2048, 2000), "nf4", "bfloat16", train=CHECKPOINTING),
    Case("meta-llama/Llama-3.1-8B", LONG, "nf4", "bfloat16", adapter={"use_dora": True}, train=CHECKPOINTING),
    Case("meta-llama/Llama-3.1-8B", Batch(4, 512, 20, padded=True), "nf4", "bfloat16"),
    Case(
        "meta-llama/Llama-3.1-8B", LONG, "nf4", "bfloat16", adapter={"r": 64}, train={**CHECKPOINTING, "packing": True}
    ),
    Case("google/gemma-2-2b", Batch(2, 1024, 1000), "nf4", "bfloat16", train=CHECKPOINTING),
    Case("FacebookAI/roberta-large", Batch(32, 256, 0, padded=True), "none", "bfloat16", family="head"),
)
"""Combinations for a GPU of 24 GB or more."""


def main() -> None:
    """Measure all cases beside their forecast, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", action="store_true", help="well-known shapes with random weights, on the GPU")
    parser.add_argument("--rehearse", action="store_true", help="with --cuda: small models of the same kinds, anywhere")
    parser.add_argument("--first", type=int, help="so many cases only")
    parser.add_argument("--seconds", type=float, default=540, help="with --cuda: start no case after so many seconds")
    parser.add_argument("--out", type=Path, help="where the result goes")
    options = parser.parse_args()
    machine.quiet_libraries()
    name = "cuda" if options.cuda else "cpu"
    begun, rows = time.monotonic(), []
    for case in (CUDA_CASES if options.cuda else CPU_CASES)[: options.first]:
        if options.cuda and time.monotonic() - begun > options.seconds:
            print(f"left out for want of time: {case.model} {case.said}", flush=True)
            continue
        rows.append(on_gpu(case, options.rehearse) if options.cuda else on_processor(case))
        print(rows[-1].model_dump_json(), flush=True)
        gc.collect()
    command = f"python benchmarks/forecast.py{' --cuda' if options.cuda else ''}"
    summary = "Peak of memory in real steps, measured and forecast."
    folder = options.out or HERE / "results" / f"forecast-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    write_result(result_of("forecast", f"forecast-{name}", command, rows, summary=summary), folder)


def on_processor(case: Case) -> Run:
    """Measure a case on files of a small model."""
    path = folder_of(case.model)
    config = case.config(path)
    settings = settings_of(find_model(config.model))
    device = Device("cpu", getattr(torch, case.dtype))
    return compared(case, settings, config, device, case.batch, lambda: measure_run(config, case.family, case.batch))


def on_gpu(case: Case, rehearse: bool) -> Run:
    """Measure a case on random weights, on the GPU or, as a rehearsal, on a processor."""
    settings = known_settings(case.model)
    batch = case.batch
    if rehearse:
        settings = shallow(settings, 2)
        for name, value in SMALL.items():
            setattr(settings, name, value)
        batch = Batch(batch.rows, min(batch.length, 32), min(batch.trained, 16), batch.padded)
    config = case.config(case.model)
    device = device_of(config, this_machine())

    def measure() -> Measured:
        try:
            return measure_random(settings, config, case.family, batch, device)
        finally:
            if device.kind == "cuda":
                gc.collect()
                torch.cuda.empty_cache()

    return compared(case, settings, config, device, batch, measure)


def compared(
    case: Case, settings: Any, config: RunConfig, device: Device, batch: Batch, measure: Callable[[], Measured]
) -> Run:
    """Return a case's forecast beside what was measured."""
    found = outline_of(trace_step(settings, config, case.family, batch, device))
    kinds = {
        "model": case.model,
        "quantization": case.quantization,
        "dtype": str(device.dtype).removeprefix("torch."),
        "case": case.said,
    }
    workspace = this_machine().workspace
    forecast = found.peak + workspace
    row = Run(case=" ".join(kinds.values()), contestant="peftkit", round=1, detail=kinds)
    try:
        measured = measure()
    except torch.OutOfMemoryError as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        return row.model_copy(
            update={"status": "out of memory", "reason": reason, "measures": {"forecast_memory": forecast}}
        )
    measures: dict[str, Any] = {"forecast_memory": forecast, "peak_allocated": measured.peak}
    measures["error"] = round(forecast / measured.peak - 1, 5)
    if measured.reserved is not None:
        passes = config.train.gradient_accumulation_steps
        seconds = step_time(found.work, this_machine(), device.dtype.itemsize, min(passes, 2), passes).middle
        measures |= {"forecast_reserved": found.taken.reserved + workspace, "peak_reserved": measured.reserved}
        measures |= {"forecast_step": seconds, "step_p50": measured.seconds}
    return row.model_copy(update={"measures": measures})


if __name__ == "__main__":
    main()
