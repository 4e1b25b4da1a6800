"""Measure merging: memory and time of `peftkit merge`, of PEFT's own merge, and of copying the same bytes.

Models of random weights in bfloat16 are made for it, with Llama's shapes, and a LoRA of rank 16 on every linear layer.
Each measurement is a process of its own; copy, peftkit and PEFT take turns. Time is that of the merge alone, from the
call to the last byte on the disk, without starting Python; PEFT loads, merges and saves. Memory is the peak of the
resident set from the call on, and what the process held before it, with everything imported.

python benchmarks/merge.py [--cases 1GB 8GB 8GB-in-8 30GB] [--rounds 3] [--folder SCRATCH]
"""

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from peftkit import machine
from peftkit.bench.envelope import result_of
from peftkit.bench.result import Result, Run, read_result, write_result
from peftkit.model.weight_files import INDEX, SINGLE, write_header

HERE = Path(__file__).parent
GB = 10**9
CASES = {
    "1GB": {"hidden": 2048, "inner": 5632, "layers": 10, "files": 1},
    "8GB": {"hidden": 4096, "inner": 14336, "layers": 18, "files": 1},
    "8GB-in-8": {"hidden": 4096, "inner": 14336, "layers": 18, "files": 8},
    "30GB": {"hidden": 4096, "inner": 14336, "layers": 68, "files": 8},
}
VOCABULARY = 32_000
RANK = 16
KINDS = ("copy", "peftkit", "peft")


def main() -> None:
    """Make each model, measure in processes of their own, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-peft", action="store_true", help="Measure copy and peftkit alone.")
    parser.add_argument("--folder", type=Path, help="Where models are written; three times the largest one's size.")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "merge")
    parser.add_argument("--measure", nargs=3, metavar=("KIND", "FOLDER", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    machine.quiet_libraries()
    if options.measure:
        kind, folder, out = options.measure
        print(json.dumps(measure(kind, Path(folder), Path(out))))
        return
    runs, sizes = [], {}
    for name in options.cases:
        with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
            more, sizes[name] = run_case(name, Path(scratch), options.rounds, peft=not options.without_peft)
            runs += more
    written = read_result(options.out) if options.out.exists() else None
    options.out.mkdir(parents=True, exist_ok=True)
    write_result(report(runs, sizes, written), options.out)


def run_case(name: str, folder: Path, rounds: int, *, peft: bool) -> tuple[list[Run], dict[str, Any]]:
    """Measure one model; PEFT only where the model fits into memory twice. Return the turns and the sizes."""
    size = make_model(folder / "base", **CASES[name])
    adapter = make_adapter(folder / "base", folder / "adapter")
    fits = peft and 2 * size < machine.available_memory()
    runs = []
    for number in range(1, rounds + 1):
        for kind in (kind for kind in KINDS if kind != "peft" or fits):
            one = in_a_process(kind, folder, folder / "out")
            runs.append(Run(case=name, contestant=kind, round=number, measures=one))
            shutil.rmtree(folder / "out")
            print(f"{name} round {number} {kind}: {one['seconds']:.1f} s, peak {one['peak'] / GB:.2f} GB", flush=True)
    return runs, {**CASES[name], "bytes": size, "adapter_bytes": adapter}


def make_model(folder: Path, *, hidden: int, inner: int, layers: int, files: int) -> int:
    """Write a model of random weights and return its size in bytes; a few random megabytes stand for all weights."""
    from transformers import LlamaConfig

    folder.mkdir()
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 128,
        num_key_value_heads=hidden // 512,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )
    config.save_pretrained(folder)
    shapes = {"model.embed_tokens.weight": (VOCABULARY, hidden)}
    small = hidden // 4
    for layer in range(layers):
        at = f"model.layers.{layer}"
        for part, rows in (("q", hidden), ("k", small), ("v", small), ("o", hidden)):
            shapes[f"{at}.self_attn.{part}_proj.weight"] = (rows, hidden)
        shapes[f"{at}.mlp.gate_proj.weight"] = shapes[f"{at}.mlp.up_proj.weight"] = (inner, hidden)
        shapes[f"{at}.mlp.down_proj.weight"] = (hidden, inner)
        shapes[f"{at}.input_layernorm.weight"] = shapes[f"{at}.post_attention_layernorm.weight"] = (hidden,)
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (VOCABULARY, hidden)}
    drawn = np.random.default_rng(0).normal(0, 0.02, 1 << 22).astype(np.float32)
    block = (drawn.view(np.uint32) >> 16).astype(np.uint16).tobytes()  # bfloat16: the upper half of a float32
    names = list(shapes)
    each = -(-len(names) // files)
    index = {}
    for number in range(files):
        own = names[number * each : (number + 1) * each]
        file = SINGLE if files == 1 else f"model-{number + 1:05}-of-{files:05}.safetensors"
        index |= dict.fromkeys(own, file)
        with (folder / file).open("wb") as out:
            sizes = {name: 2 * int(np.prod(shapes[name])) for name in own}
            out.write(write_header({name: ("BF16", shapes[name], sizes[name]) for name in own}, {"format": "pt"}))
            for name in own:
                for start in range(0, sizes[name], len(block)):
                    out.write(block[: sizes[name] - start])
    if files > 1:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def make_adapter(base: Path, folder: Path) -> int:
    """Write a LoRA of random values for a model, and return the size of its weights."""
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(base),
    )
    with torch.device("meta"):
        model = get_peft_model(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base)), config)
    wanted = get_peft_model_state_dict(model, save_embedding_layers=False)
    folder.mkdir()
    config.inference_mode = True
    model.peft_config["default"].save_pretrained(str(folder))
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(value.shape, generator=generator) * 0.02 for name, value in wanted.items()}
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return (folder / "adapter_model.safetensors").stat().st_size


def in_a_process(kind: str, folder: Path, out: Path) -> dict[str, float]:
    """Measure once."""
    os.sync()
    done = subprocess.run(
        [sys.executable, __file__, "--measure", kind, str(folder), str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{kind} failed:\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def measure(kind: str, folder: Path, out: Path) -> dict[str, float]:
    """Merge or copy, and return seconds and bytes of memory."""
    if kind == "copy":
        out.mkdir()
        with watched() as seen:
            for file in sorted((folder / "base").glob("*.safetensors")):
                shutil.copyfile(file, out / file.name)
                with (out / file.name).open("rb") as written:
                    os.fsync(written.fileno())
        return seen
    with tempfile.TemporaryDirectory() as tiny:  # imports everything
        make_model(Path(tiny) / "base", hidden=512, inner=256, layers=1, files=1)
        make_adapter(Path(tiny) / "base", Path(tiny) / "adapter")
        merge_once(kind, Path(tiny), Path(tiny) / "out")
    with watched() as seen:
        merge_once(kind, folder, out)
    return seen


def merge_once(kind: str, folder: Path, out: Path) -> None:
    """Merge by peftkit or by PEFT."""
    if kind == "peftkit":
        from peftkit.merge.given import Weighted
        from peftkit.merge.merge import merge

        merge([Weighted(folder / "adapter")], out, base=str(folder / "base"), proof=False)
        return
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype="bfloat16")
    merged = PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload()
    merged.save_pretrained(out, max_shard_size="1000GB")
    for file in out.glob("*.safetensors"):
        with file.open("rb") as written:
            os.fsync(written.fileno())


@contextlib.contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Measure seconds, resident memory before, and its peak from here on."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak until now
    seen = {"before": float(machine.resident())}
    begun = time.perf_counter()
    yield seen
    seen["seconds"] = time.perf_counter() - begun
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    seen["peak"] = 1024.0 * int(status["VmHWM"].split()[0])


def report(runs: list[Run], sizes: dict[str, Any], written: Result | None) -> Result:
    """Return the result, with the cases of an earlier one that were not measured again."""
    earlier = written.settings["cases"] if written else {}
    cases = {name: {**earlier, **sizes}[name] for name in CASES if name in {**earlier, **sizes}}
    kept = [one for one in written.runs if one.case not in sizes] if written else []
    order = list(CASES)
    return result_of(
        "merging",
        "merge",
        "python benchmarks/merge.py",
        sorted([*kept, *runs], key=lambda one: order.index(one.case)),
        summary=f"A LoRA of rank {RANK} merged into models of random weights, beside PEFT and copying the files.",
        settings={"rank": RANK, "contestants": ["peftkit", "copy", "peft"], "cases": cases},
        compared=("seconds",),
    )


if __name__ == "__main__":
    main()
