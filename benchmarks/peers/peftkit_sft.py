"""Train with peftkit's own parts on the same job; see `throughput.py`."""

import json
import sys
from pathlib import Path

import torch
from stopwatch import Stopwatch

from peftkit.adapter.attach import attach
from peftkit.config import AdapterConfig, ModelConfig, TrainConfig
from peftkit.data.encode import Example
from peftkit.model.load import Source, load_model, load_tokenizer
from peftkit.train.trainer import AdapterTrainer, training_arguments, training_dataset


def main() -> None:
    """Read a job, train, and print the result as JSON."""
    job = json.loads(Path(sys.argv[1]).read_text())
    source = Source(job["model"])
    base = ModelConfig(path=job["model"], quantization="nf4", dtype=job["dtype"])
    adapter = AdapterConfig(r=job["r"], lora_alpha=job["lora_alpha"])
    adapted = attach(load_model(source, base), adapter, base=base, seed=job["seed"])
    examples = []
    for ids, labels in zip(job["input_ids"], job["labels"], strict=True):
        prompt = labels.count(-100)
        examples.append(Example("", {}, "", ids[:prompt], ids[prompt:], False))
    config = TrainConfig(
        learning_rate=job["learning_rate"],
        max_steps=job["steps"],
        per_device_train_batch_size=job["batch"],
        gradient_accumulation_steps=job["accumulation"],
        seed=job["seed"],
        extra={"save_strategy": "no"},
    )
    arguments = training_arguments(config, Path(job["output"]), getattr(torch, job["dtype"]))
    watch = Stopwatch()
    AdapterTrainer(adapted, arguments, training_dataset(examples), load_tokenizer(source), [watch]).train()
    sys.stdout.write("\n" + json.dumps(watch.result()) + "\n")


main()
