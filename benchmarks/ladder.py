"""How long a text can be: each lever against memory, traced on the meta device at the shapes of a large model.

python benchmarks/ladder.py [--limit 22.5] [--lengths 2048 8192 32768] [--missing]

Nothing is computed and nothing measured: a training step runs on tensors without memory, and what would be alive on a
GPU is counted (`peftkit plan` does the same). `ladder_gpu.py` measures the same rungs on a GPU.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from peftkit import machine
from peftkit.config import RunConfig
from peftkit.plan.cards import GIB, find_card
from peftkit.plan.outline import Outline, outline, shallow
from peftkit.plan.shapes import known_settings
from peftkit.plan.step import Batch, Device, trace_step
from peftkit.train.trainer import AdapterTrainer

HERE = Path(__file__).parent
MODEL, RANK, CARD = "meta-llama/Llama-3.1-8B", 32, "RTX 4090"
STEP = 64
"""Tokens to which the largest length is found."""


@dataclass(frozen=True)
class Rung:
    """One configuration of the ladder.

    Attributes:
        name: What is new in it.
        train: Values of the group of training.
        whole_logits: Whether the loss is transformers' own, from the logits of all tokens, not TRL's fused head.
        float_weights: Whether what is not quantized is float32, as TRL loads a model that it is given by name.
        alone: Whether the rung stands beside the ladder: one lever on top of TRL as it is advised.
    """

    name: str
    train: Mapping[str, Any] = field(default_factory=dict)
    whole_logits: bool = False
    float_weights: bool = False
    alone: bool = False


PEFTS = {"fused_lora": False}
ADVISED = {**PEFTS, "gradient_checkpointing": True}
FUSED = {"gradient_checkpointing": True, "fused_lora": True}
CHEAP = {"recompute_pointwise": True}
TILED = {**FUSED, "tiled_mlp": 4096}
RUNGS = (
    Rung("TRL, model given by name: float32 beside the 4-bit weights", ADVISED, float_weights=True),
    Rung("bfloat16, all logits, nothing recomputed", PEFTS, whole_logits=True),
    Rung("+ gradient_checkpointing", ADVISED, whole_logits=True),
    Rung("+ TRL's fused loss head: TRL as it is advised", ADVISED),
    Rung("+ fused_lora", FUSED),
    Rung("+ tiled_mlp=4096", TILED),
    Rung("+ offload_activations", {**TILED, "offload_activations": True}),
    Rung("TRL as it is advised, tiled_mlp=4096 alone", {**ADVISED, "tiled_mlp": 4096}, alone=True),
    Rung("TRL as it is advised, offload_activations alone", {**ADVISED, "offload_activations": True}, alone=True),
    Rung("TRL's fused loss head, nothing recomputed", PEFTS, alone=True),
    Rung("TRL's fused loss head, nothing recomputed, fused_lora", {"fused_lora": True}, alone=True),
    Rung("TRL's fused loss head, recompute_pointwise", {"fused_lora": True, **CHEAP}, alone=True),
    Rung("the same, and checkpoint_layers=16 of 32", {**FUSED, **CHEAP, "checkpoint_layers": 16}, alone=True),
    Rung("fused_lora, checkpoint_layers=16 of 32", {**FUSED, "checkpoint_layers": 16}, alone=True),
    Rung("fused_lora, keep_attention", {**FUSED, "keep_attention": True}, alone=True),
    Rung("fused_lora, liger_kernels", {**FUSED, "liger_kernels": True}, alone=True),
    Rung("fused_lora, tiled_mlp=4096, liger_kernels", {**TILED, "liger_kernels": True}, alone=True),
)


class FloatWeights(Device):
    """float32 weights under autocast to bfloat16."""

    @property
    def autocast(self) -> torch.dtype:
        """What autocast computes in."""
        return torch.bfloat16


def device_of(rung: Rung, kind: str = "cuda", dtype: torch.dtype = torch.bfloat16) -> Device:
    """Return where a rung runs, and in what."""
    return FloatWeights(kind, torch.float32) if rung.float_weights else Device(kind, dtype)


def config_of(rung: Rung, length: int, quantization: str = "nf4") -> RunConfig:
    """Return a rung's configuration for one row of a length, all of it trained."""
    return RunConfig(
        recipe="completion",
        task={"kind": "completion"},
        model={"path": MODEL, "quantization": quantization},
        adapter={"r": RANK, "target_modules": ("all-linear",)},
        train={"per_device_train_batch_size": 1, "max_length": length, "max_steps": 100, **rung.train},
    )


@contextmanager
def loss_of(rung: Rung) -> Iterator[None]:
    """Let a rung's trainer compute its loss in the rung's way inside."""
    own = AdapterTrainer.compute_loss
    if rung.whole_logits:
        AdapterTrainer.compute_loss = Trainer.compute_loss
    try:
        yield
    finally:
        AdapterTrainer.compute_loss = own


def settings_for(model: str, length: int) -> Any:
    """Return a model's configuration with enough positions for a length."""
    settings = known_settings(model)
    settings.max_position_embeddings = max(length, settings.max_position_embeddings)
    return settings


def traced(rung: Rung, length: int, model: str = MODEL, layers: int | None = None) -> Outline:
    """Trace a step of a rung on one row of a length, at the model's depth or with fewer layers."""
    settings = settings_for(model, length)
    settings = shallow(settings, layers) if layers else settings
    with loss_of(rung):
        return outline(settings, config_of(rung, length), "causal", Batch(1, length, length), device_of(rung))


def traced_whole(rung: Rung, length: int) -> int:
    """Return the peak of a rung traced with all of its layers, and not from two shallow models."""
    with loss_of(rung):
        step = (settings_for(MODEL, length), config_of(rung, length), "causal", Batch(1, length, length))
        return trace_step(*step, device_of(rung)).trace.peak


def largest(limit: int, known: Mapping[int, int], peak: Callable[[int], int]) -> int:
    """Return the largest length, in steps of `STEP`, whose peak is within a limit.

    Args:
        limit: Bytes.
        known: Peaks by length; at least two.
        peak: Gives the peak of a length.
    """
    known = dict(known)
    while True:
        below, above = ([one for one in known if (known[one] <= limit) == fits] for fits in (True, False))
        if below and above and min(above) - max(below) <= STEP:
            return max(below)
        guess = _between(known, limit)
        if below and above:
            guess = min(max(guess, max(below) + STEP), min(above) - STEP)
        if guess in known:
            guess += STEP if known[guess] <= limit else -STEP
        known[guess] = peak(guess)


def _between(known: Mapping[int, int], limit: int) -> int:
    """Return the length at which a line through the two nearest peaks meets the limit."""
    near = sorted(sorted(known, key=lambda one: abs(known[one] - limit))[:2])
    slope = (known[near[1]] - known[near[0]]) / (near[1] - near[0])
    return max(STEP, int((near[0] + (limit - known[near[0]]) / slope) // STEP * STEP))


def row_of(rung: Rung, lengths: Sequence[int], limit: int, workspace: int) -> dict[str, Any]:
    """Return a rung's row: bytes at each length, and the largest length within the limit."""
    outlines: dict[int, Outline] = {}

    def peak(length: int) -> int:
        outlines[length] = traced(rung, length)
        print(f"  {length:>7,} tokens: {(outlines[length].peak + workspace) / GIB:.2f} GiB", flush=True)
        return outlines[length].peak + workspace

    print(rung.name, flush=True)
    known = {length: peak(length) for length in lengths}
    most = largest(limit, known, peak)
    phase, top = outlines[most].top(evaluation=False) or ("", None)
    return {
        "name": rung.name,
        "train": dict(rung.train),
        "alone": rung.alone,
        "peak": {str(length): known[length] for length in lengths},
        "largest": most,
        "peak_at_largest": outlines[most].peak + workspace,
        "reserved_at_largest": outlines[most].taken.training + workspace,
        "main_memory_at_largest": outlines[most].moved,
        "where": f"{phase}, {top.operation}" if top else "",
        "flops_per_token": {str(length): round(outlines[length].work.flops() / length) for length in lengths},
    }


def main() -> None:
    """Trace all rungs, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=22.5, help="GiB that a step may have alive on the GPU")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192, 32768])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "ladder-meta.json")
    parser.add_argument("--missing", action="store_true", help="trace only the rungs that the file lacks")
    options = parser.parse_args()
    machine.quiet_libraries()
    limit, workspace = int(options.limit * GIB), find_card(CARD).workspace
    there = json.loads(options.out.read_text(encoding="utf-8"))["rungs"] if options.missing else []
    kept = {one["name"]: one for one in there}
    rows = [kept.get(rung.name) or row_of(rung, options.lengths, limit, workspace) for rung in RUNGS]
    last = next(number for number, rung in reversed([*enumerate(RUNGS)]) if not rung.alone)
    if RUNGS[last].name not in kept:
        rows[last]["whole_trace_at_largest"] = traced_whole(RUNGS[last], rows[last]["largest"]) + workspace
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python benchmarks/ladder.py",
        "traced": "on the meta device; nothing was measured",
        "versions": machine.versions(),
        "model": MODEL,
        "quantization": "nf4",
        "r": RANK,
        "rows": 1,
        "limit": limit,
        "lengths": options.lengths,
        "rungs": rows,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
