"""Train with peftkit's own parts on the same job; see `throughput.py`."""

import json
import sys
from pathlib import Path

from stopwatch import Stopwatch

from peftkit.adapter.attach import attach
from peftkit.config import AdapterConfig, ModelConfig, RunConfig, TrainConfig
from peftkit.data.examples import Example
from peftkit.model.load import Source, load_model, load_tokenizer
from peftkit.train.trainers import make_trainer


def main() -> None:
    """Read a job, train, and print the result as JSON."""
    job = json.loads(Path(sys.argv[1]).read_text())
    source = Source(job["model"])
    base = ModelConfig(path=job["model"], quantization="nf4", dtype=job["dtype"])
    adapter = AdapterConfig(r=job["r"], lora_alpha=job["lora_alpha"])
    examples = []
    for ids, labels in zip(job["input_ids"], job["labels"], strict=True):
        prompt = labels.count(-100)
        examples.append(Example("", {}, "", ids[:prompt], ids[prompt:], False))
    train = TrainConfig(
        learning_rate=job["learning_rate"],
        max_steps=job["steps"],
        per_device_train_batch_size=job["batch"],
        gradient_accumulation_steps=job["accumulation"],
        seed=job["seed"],
        extra={"save_strategy": "no"},
    )
    config = RunConfig(recipe="sentiment", model=base, adapter=adapter, train=train)
    adapted = attach(load_model(source, config, "causal"), adapter, base=base, seed=job["seed"])
    watch = Stopwatch()
    output = Path(job["output"])
    make_trainer(adapted, "causal", load_tokenizer(source), examples, config, output, [watch]).train()
    sys.stdout.write("\n" + json.dumps(watch.result()) + "\n")


main()
