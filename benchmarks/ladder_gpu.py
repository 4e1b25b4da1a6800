"""Measure the rungs of `ladder.py` on a GPU: memory and speed, with random weights, in less than ten minutes.

python benchmarks/ladder_gpu.py [--limit 24] [--minutes 9] [--lengths 2048 8192 32768]
python benchmarks/ladder_gpu.py --rehearse        # the same on a processor, with a small model

Each rung runs in a process of its own, the shortest rows first; a rung ends where memory does. The rungs that matter
most come first, each has a limit of time, and the result is written after each: what no time is left for is a row that
says so. Other programs are measured by `peftkit bench`, on the same shapes.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from ladder import ADVISED, FUSED, MODEL, RANK, RUNGS, TILED, Rung, config_of, device_of, loss_of, settings_for

from peftkit import machine
from peftkit.plan.cards import GIB
from peftkit.plan.forecast import device_of as device_of_card
from peftkit.plan.measure import measure_random
from peftkit.plan.outline import outline, shallow
from peftkit.plan.rates import this_machine
from peftkit.plan.step import Batch, Device

OFFLOADED = {**TILED, "offload_activations": True}
BESIDE = (
    Rung("all of the ladder, keep_attention", {**OFFLOADED, "keep_attention": True}, alone=True),
    Rung("fused_lora, compile_layers", {**FUSED, "compile_layers": True}, alone=True),
    Rung("TRL as it is advised, liger_kernels", {**ADVISED, "liger_kernels": True}, alone=True),
    Rung("all of the ladder, liger_kernels", {**OFFLOADED, "liger_kernels": True}, alone=True),
)
"""Levers that are for speed; what compiling brings, a trace cannot see, and Liger's kernels need Liger."""
MEASURED = (*RUNGS, *BESIDE)
FIRST = ("+ offload_activations", "+ TRL's fused loss head: TRL as it is advised", "+ tiled_mlp=4096", "+ fused_lora")
LIMIT = 180
"""Seconds of a rung: one that hangs leaves time for the others."""

HERE = Path(__file__).parent
TRACED = HERE / "results" / "ladder-meta.json"
REHEARSAL = {"lengths": [64, 128], "tile": 32}
SMALL = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def main() -> None:
    """Measure all rungs, or with `--rung` one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=24, help="GiB of the GPU that may be used")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192, 32768])
    parser.add_argument("--steps", type=int, default=3, help="of each length; the first is not timed")
    parser.add_argument("--rehearse", action="store_true", help="on a processor, with a small model")
    parser.add_argument("--rungs", type=int, help="measure only so many")
    parser.add_argument("--rung", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "ladder-cuda.json")
    options = parser.parse_args()
    if options.rung is not None:
        machine.let_segments_grow()
        measure_rung(MEASURED[options.rung], options)
        return
    if not options.rehearse and not torch.cuda.is_available():
        sys.exit("there is no CUDA GPU here; --rehearse runs the same on a processor")
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python benchmarks/ladder_gpu.py", *sys.argv[1:]]),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "model": "a small one" if options.rehearse else MODEL,
        "quantization": "nf4",
        "r": RANK,
        "rows": 1,
        "limit": None if options.rehearse else int(options.limit * GIB),
        "rungs": [],
    }
    for row in measured(options):
        result["rungs"].append(row)
        print(json.dumps(row), flush=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")


def in_turn() -> list[int]:
    """Return the numbers of the rungs, those that matter most first."""
    names = [rung.name for rung in MEASURED]
    first = [names.index(name) for name in FIRST]
    return [*first, *(number for number in range(len(MEASURED)) if number not in first)]


def measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the row of each rung, by length."""
    ends = time.monotonic() + 60 * options.minutes
    for number in in_turn()[: options.rungs]:
        rung, left = MEASURED[number], ends - time.monotonic()
        if left <= 0:
            yield {"name": rung.name, "lengths": {}, "note": "no time was left"}
            continue
        command = [sys.executable, __file__, "--rung", str(number), *sys.argv[1:]]
        found: dict[str, Any] = {}
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=min(LIMIT, left))
            lines = done.stdout
            said = [*done.stderr.strip().splitlines(), ""][-2:][0]
            note = "" if done.returncode == 0 else f"it ended with code {done.returncode}: {said[:300]}"
        except subprocess.TimeoutExpired as error:
            lines, note = (error.stdout or b"").decode(), f"it took longer than {min(LIMIT, left):.0f} s"
        for line in lines.splitlines():
            with suppress(ValueError):  # the last line of a process that was ended can be torn
                found |= json.loads(line) if line.startswith("{") else {}
        yield {"name": rung.name, "train": dict(rung.train), "lengths": found, **({"note": note} if note else {})}


def measure_rung(rung: Rung, options: argparse.Namespace) -> None:
    """Print a line for each length: what was forecast and measured, or that memory did not suffice."""
    machine.quiet_libraries()
    if not options.rehearse:
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, options.limit * GIB / whole))
    for length in REHEARSAL["lengths"] if options.rehearse else [*options.lengths, *traced_length(rung)]:
        try:
            row = measure(rung, length, options)
        except torch.OutOfMemoryError:
            print(json.dumps({length: {"out_of_memory": True}}), flush=True)
            return
        print(json.dumps({length: row}), flush=True)
        if not options.rehearse:
            torch.cuda.empty_cache()


def traced_length(rung: Rung) -> list[int]:
    """Return the largest length that a rung was traced to have, a little less for what the trace cannot see."""
    if not TRACED.is_file():
        return []
    rungs = json.loads(TRACED.read_text(encoding="utf-8"))["rungs"]
    return [int(one["largest"] * 0.95) // 64 * 64 for one in rungs if one["name"] == rung.name and not one["alone"]]


def measure(rung: Rung, length: int, options: argparse.Namespace) -> dict[str, Any]:
    """Take some steps of a rung on one row of a length."""
    settings, config, batch = settings_for(MODEL, length), config_of(rung, length), Batch(1, length, length)
    card = this_machine()
    device = device_of(rung, dtype=device_of_card(config, card).dtype)
    if options.rehearse:
        settings = shallow(settings, 4)
        for name, value in SMALL.items():
            setattr(settings, name, value)
        tile = {"tiled_mlp": REHEARSAL["tile"]} if rung.train.get("tiled_mlp") else {}
        config = config_of(Rung(rung.name, {**rung.train, **tile}), length)
        device = Device("cpu", torch.float32)
    with loss_of(rung):
        forecast = outline(settings, config, "causal", batch, device)
        if rung.float_weights and not options.rehearse:  # the trainer goes by the weights' dtype, unless it is told
            train = config.train.model_copy(update={"extra": {"bf16": True}})
            config = config.model_copy(update={"train": train})
        found = measure_random(settings, config, "causal", batch, device, options.steps)
    return {
        "forecast": forecast.peak + card.workspace,
        "peak": found.peak,
        "reserved": found.reserved,
        "seconds": round(found.seconds, 4),
        "tokens_per_second": round(length / found.seconds, 1),
    }


if __name__ == "__main__":
    main()
