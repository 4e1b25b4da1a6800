"""Train with TRL's `SFTTrainer` alone, as its documentation shows it; the yardstick of `throughput.py`.

`plain` leaves every option that is not part of the task at TRL's default. `tuned` adds what helps on this machine and
needs no code: the dtype given, no gradient checkpointing where memory is plenty, batches of like length.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from stopwatch import Stopwatch
from transformers import AutoTokenizer, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer


def main() -> None:
    """Read a job, train, and print the result as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=Path)
    parser.add_argument("--tuned", action="store_true")
    options = parser.parse_args()
    job = json.loads(options.job.read_text())
    dtype = getattr(torch, job["dtype"])
    tuned = (
        {
            "gradient_checkpointing": False,
            "bf16": dtype == torch.bfloat16,
            "train_sampling_strategy": "group_by_length",
            "model_init_kwargs": {"dtype": dtype},
        }
        if options.tuned
        else {}
    )
    watch = Stopwatch()
    trainer = SFTTrainer(
        model=job["model"],
        args=SFTConfig(
            output_dir=job["output"],
            per_device_train_batch_size=job["batch"],
            gradient_accumulation_steps=job["accumulation"],
            max_steps=job["steps"],
            learning_rate=job["learning_rate"],
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            seed=job["seed"],
            **tuned,
        ),
        train_dataset=Dataset.from_dict({"input_ids": job["input_ids"], "labels": job["labels"]}),
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        peft_config=LoraConfig(r=job["r"], lora_alpha=job["lora_alpha"], target_modules="all-linear"),
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype if options.tuned else torch.bfloat16,
        ),
        callbacks=[watch],
    )
    trainer.train()
    sys.stdout.write("\n" + json.dumps(watch.result()) + "\n")


main()
