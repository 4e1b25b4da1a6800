"""TRL's `SFTTrainer` alone as a contestant, as its documentation shows it.

Without an option, everything that is not part of the task is at TRL's default. `--tuned` adds what its documentation
advises for speed and needs no code: the dtype given, no gradient checkpointing where memory is plenty, batches of like
length. `--checkpointing` keeps gradient checkpointing, for where it is not; `--packing` packs rows.
"""

import argparse
from pathlib import Path
from typing import Any

from peftkit.bench.contestant import compete
from peftkit.bench.job import Job

PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument("job")
PARSER.add_argument("outcome")
PARSER.add_argument("--tuned", action="store_true")
PARSER.add_argument("--checkpointing", action="store_true")
PARSER.add_argument("--packing", action="store_true")


def train(job: Job, folder: Path) -> dict[str, Any]:
    """Train a job with TRL."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from peftkit.bench.stopwatch import Stopwatch

    if job.method != "lora":
        raise ValueError(f"this script trains lora, and the job asks for {job.method}")
    options = PARSER.parse_args()
    watch = Stopwatch(job)
    trainer = SFTTrainer(
        model=job.model,
        args=SFTConfig(**(task(job, folder) | tuned(job, options))),
        train_dataset=Dataset.from_dict({"input_ids": job.input_ids, "labels": job.labels}),
        processing_class=AutoTokenizer.from_pretrained(job.model),
        peft_config=LoraConfig(
            r=job.r, lora_alpha=job.lora_alpha, lora_dropout=job.lora_dropout, target_modules=job.targets
        ),
        quantization_config=quantization(job, getattr(torch, job.dtype) if options.tuned else torch.bfloat16),
        callbacks=[watch],
    )
    watch.watch(trainer)
    trainer.train()
    return watch.result()


def task(job: Job, folder: Path) -> dict[str, Any]:
    """Return the arguments that are part of the task, and those that keep the trainer silent."""
    import torch

    return {
        "output_dir": str(folder),
        "max_length": job.max_length,
        "per_device_train_batch_size": job.batch,
        "gradient_accumulation_steps": job.accumulation,
        "max_steps": job.steps,
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": job.lr_scheduler_type,
        "warmup_steps": job.warmup_fraction,
        "weight_decay": job.weight_decay,
        "max_grad_norm": job.max_grad_norm,
        "seed": job.seed,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        **({"train_sampling_strategy": "sequential"} if job.same_batches else {}),
    }


def tuned(job: Job, options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments that TRL's documentation advises for speed."""
    import torch

    if not options.tuned:
        return {}
    dtype = getattr(torch, job.dtype)
    loading = {"dtype": dtype}
    if job.attn_implementation is not None:
        loading["attn_implementation"] = job.attn_implementation
    return {
        "gradient_checkpointing": options.checkpointing,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "packing": options.packing,
        "model_init_kwargs": loading,
        **({} if job.same_batches or options.packing else {"train_sampling_strategy": "group_by_length"}),
    }


def quantization(job: Job, dtype: Any) -> Any:
    """Return bitsandbytes' settings as the documentation has them; None where nothing is quantized."""
    from transformers import BitsAndBytesConfig

    if job.quantization == "none":
        return None
    if job.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=job.quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


if __name__ == "__main__":
    compete(train)
