"""PEFT's MetaMathQA comparison through peftkit: the same settings and JSON fields, with quantized rows beside bfloat16.

python benchmarks/metamathqa/run.py --model FOLDER --train MetaMathQA-395K.json --test gsm8k-test.jsonl [NAME ...]

The settings are those of `huggingface/peft`, `method_comparison/MetaMathQA`: 5,000 steps of 4 rows, up to 768 tokens,
AdamW, cosine with 10% warm-up, LoRA of rank 32 on queries and values. Three things differ. The batches are of like
length over all rows, and not over each 80 rows that follow each other. Nothing is judged while it trains, so lines of
a step have no `valid accuracy`. And `forgetting` is not measured.

Each experiment runs in a process of its own; one that fails is a result that says why.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from answers import accuracy  # noqa: E402

EXPERIMENTS: Mapping[str, tuple[str, str]] = {
    "lora/llama-3.2-3B-rank32": ("none", "bfloat16"),
    "lora/llama-3.2-3B-rank32-nf4": ("nf4", "int4"),
    "lora/llama-3.2-3B-rank32-int8": ("int8", "int8"),
}
"""How each holds the frozen weights: as peftkit names it, and as PEFT's files do."""
TEMPLATE = "Question: {query} Think step by step.\nAnswer:"
LONGEST = 1300  # characters of a row that is taken
EVERY = 250  # steps of a line of the result
GENERATED = {"max_length": 800, "max_new_tokens": 300}


def main() -> None:
    """Run the named experiments, all of them without a name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(EXPERIMENTS))
    parser.add_argument("--model", required=True, help="folder of Llama-3.2-3B, or its hub id")
    parser.add_argument("--train", type=Path, required=True, help="MetaMathQA: .json, .jsonl or .parquet")
    parser.add_argument("--test", type=Path, required=True, help="GSM8K's test rows, likewise")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=4, help="rows of a step")
    parser.add_argument("--batch-eval", type=int, default=50)
    parser.add_argument("--test-rows", type=int, help="judge only so many, for a rehearsal")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--hours", type=float, default=3, help="most that one experiment may take")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"there is no experiment '{unknown[0]}'; there are: {', '.join(EXPERIMENTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or EXPERIMENTS:
        if options.here:
            write(options.out, name, experiment(name, options))
            return
        given = [word for word in sys.argv[1:] if word not in options.names]
        command = [sys.executable, __file__, name, *given, "--here"]
        try:
            done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True, timeout=3600 * options.hours)
            failed = done.stderr.strip().splitlines()[-1:] if done.returncode else []
        except subprocess.TimeoutExpired:
            failed = [f"it took longer than {options.hours:g} hours"]
        if failed:
            write(
                options.out, name, {"run_info": run_info(name, options, failed[0]), "train_info": {"status": "failed"}}
            )
        print(f"{name}: {failed[0] if failed else 'done'}", flush=True)


def experiment(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and judge, and return the result in PEFT's fields."""
    import peftkit
    from peftkit import machine

    machine.let_segments_grow()
    begun, started = time.perf_counter(), datetime.now(UTC)
    rows = list(training_rows(options.train, options.steps * options.batch))
    with tempfile.TemporaryDirectory() as scratch:
        texts = Path(scratch) / "texts.jsonl"
        texts.write_text("".join(json.dumps({"text": one}) + "\n" for one in rows), encoding="utf-8")
        run = peftkit.run("completion", settings(name, options, texts), out=Path(scratch) / "run", force=True)
        steps = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        adapter = json.loads((run.adapter / "adapter_config.json").read_text())
        size = (run.adapter / "adapter_model.safetensors").stat().st_size
        solved = judged(run.adapter, options)
    held = [one.get("reserved", one["memory"]) for one in steps]
    memory = run.summary["memory"]
    return {
        "run_info": {
            **run_info(name, options, "", started),
            "total_time": time.perf_counter() - begun,
            "peft_config": adapter,
        },
        "train_info": {
            "accelerator_memory_reserved_avg": round(statistics.fmean(held)),
            "accelerator_memory_max": memory["peak_cuda_reserved"] or memory["peak_rss"],
            "accelerator_memory_reserved_99th": sorted(held)[int(0.99 * (len(held) - 1))],
            "train_time": run.summary["train"]["seconds"],
            "file_size": size,
            "num_trainable_params": run.summary["adapter"]["trainable_parameters"],
            "num_total_params": run.summary["adapter"]["total_parameters"],
            "status": "success",
            "metrics": [*lines(steps, options.batch), last_line(steps, options.batch, solved)],
        },
        "meta_info": meta_info(options, run.summary),
    }


def settings(name: str, options: argparse.Namespace, texts: Path) -> dict[str, Any]:
    """Return the configuration of an experiment: whole texts are trained, the question with its solution."""
    quantization, _ = EXPERIMENTS[name]
    return {
        "model": {"path": options.model, "quantization": quantization, "dtype": options.dtype},
        "adapter": {"r": 32, "lora_alpha": 64, "target_modules": ["q_proj", "v_proj"]},
        "data": {"path": str(texts), "validation_fraction": 0, "test_fraction": 0, "train_rows": None},
        "train": {
            "max_length": 768,
            "max_steps": options.steps,
            "per_device_train_batch_size": options.batch,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-4,
            "weight_decay": 0.1,
            "lr_scheduler_type": "cosine",
            "warmup_fraction": 0.1,
            "max_grad_norm": 1.0,
            "gradient_checkpointing": False,
            "seed": 0,
            "extra": {"torch_empty_cache_steps": 10},
        },
        "evaluate": {"max_rows": 0},
    }


def training_rows(file: Path, count: int) -> Iterator[str]:
    """Yield the first texts that are not too long; from the start again where there are fewer."""
    texts = [
        TEMPLATE.format(query=row["query"]) + row["response"]
        for row in read_rows(file)
        if len(f"{row['query']} {row['response']}") <= LONGEST
    ]
    if not texts:
        sys.exit(f"'{file}' has no row of at most {LONGEST} characters")
    for number in range(count):
        yield texts[number % len(texts)]


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Read rows of a JSON array, of JSON lines, or of Parquet."""
    if file.suffix == ".parquet":
        import pyarrow.parquet

        found: list[dict[str, Any]] = pyarrow.parquet.read_table(file).to_pylist()
        return found
    text = file.read_text(encoding="utf-8")
    return json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.splitlines() if line]


def judged(adapter: Path, options: argparse.Namespace) -> float:
    """Return the share of GSM8K's questions that base model and adapter solve, writing greedily."""
    from peftkit.adapter.trained import open_adapter
    from peftkit.evaluate.answers import answer

    rows = read_rows(options.test)[: options.test_rows]
    trained = open_adapter(adapter)
    tokenizer = trained.encoder.tokenizer
    solutions = answer(
        trained.model.eval(),
        tokenizer,
        [tokenizer(TEMPLATE.format(query=row["question"]))["input_ids"] for row in rows],
        label_ids={},
        end_ids=trained.encoder.end_ids,
        max_new_tokens=GENERATED["max_new_tokens"],
        batch_size=options.batch_eval,
    )
    return accuracy([one.text for one in solutions], [row["answer"] for row in rows])


def lines(steps: Sequence[Mapping[str, Any]], batch: int) -> Iterator[dict[str, Any]]:
    """Yield a line for every so many steps."""
    before: Mapping[str, Any] = {"tokens": 0, "seconds": 0.0}
    for end in range(EVERY, len(steps) + 1, EVERY):
        some = steps[end - EVERY : end]
        seconds = some[-1]["seconds"] - before["seconds"]
        yield {
            "step": some[-1]["step"],
            "train loss": statistics.fmean(float(one["loss"]) for one in some),
            "train samples": some[-1]["step"] * batch,
            "train time": seconds,
            "tokens / sec": (some[-1]["tokens"] - before["tokens"]) / seconds,
            "mem reserved avg": statistics.fmean(one.get("reserved", one["memory"]) for one in some),
            "elapsed time": some[-1]["seconds"],
        }
        before = some[-1]


def last_line(steps: Sequence[Mapping[str, Any]], batch: int, solved: float) -> dict[str, Any]:
    """Return the line of the end, which has the accuracy."""
    return {
        "step": steps[-1]["step"],
        "test accuracy": solved,
        "train loss": statistics.fmean(float(one["loss"]) for one in steps[-EVERY:]),
        "train samples": steps[-1]["step"] * batch,
        "train total tokens": steps[-1]["tokens"],
    }


def run_info(name: str, options: argparse.Namespace, error: str, started: datetime | None = None) -> dict[str, Any]:
    """Return what was run, in PEFT's fields."""
    _, dtype = EXPERIMENTS[name]
    return {
        "created_at": (started or datetime.now(UTC)).isoformat(timespec="seconds"),
        "experiment_name": name,
        "peft_branch": "peftkit",
        "train_config": {
            "model_id": Path(options.model).name if Path(options.model).exists() else options.model,
            "dtype": dtype,
            "max_seq_length": 768,
            "batch_size": options.batch,
            "batch_size_eval": options.batch_eval,
            "max_steps": options.steps,
            "eval_steps": EVERY,
            "compile": False,
            "use_gc": False,
            "query_template": TEMPLATE,
            "seed": 0,
            "grad_norm_clip": 1.0,
            "optimizer_type": "AdamW",
            "optimizer_kwargs": {"lr": 1e-4, "weight_decay": 0.1},
            "lr_scheduler": "cosine",
            "use_amp": True,
            "autocast_adapter_dtype": True,
            "generation_kwargs": GENERATED,
            "attn_implementation": None,
        },
        "error_msg": error,
    }


def meta_info(options: argparse.Namespace, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return versions and machine, in PEFT's fields; files given by path have a hash in place of a commit."""
    import torch

    versions = summary["versions"]
    packages = ("transformers", "peft", "datasets", "bitsandbytes", "torch")
    return {
        "model_info": {"sha": None, "created_at": None},
        "dataset_info": {
            "metamath": {"sha": sha256(options.train), "created_at": None},
            "gsm8k": {"sha": sha256(options.test), "created_at": None},
        },
        "package_info": {f"{name}-version": versions[name] for name in packages}
        | {"peftkit-version": versions["peftkit"]},
        "system_info": {
            "system": platform.system(),
            "release": platform.release(),
            "machine": platform.machine(),
            "processor": summary["machine"]["cpu"],
            "accelerator": summary["machine"]["gpu"],
        },
        "pytorch_info": torch.__config__.show(),
    }


def sha256(file: Path) -> str:
    """Return a file's hash."""
    import hashlib

    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write(folder: Path, name: str, result: Mapping[str, Any]) -> None:
    """Write a result as PEFT names its files."""
    file = folder / f"{name.replace('/', '--')}.json"
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
