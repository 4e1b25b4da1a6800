"""Unsloth as a contestant, with TRL's `SFTTrainer` as Unsloth patches it.

Its versions of other libraries differ from peftkit's: install it into a folder of its own with `pip install --target`,
and give that with `--packages Unsloth=FOLDER`.
"""

from pathlib import Path
from typing import Any

from peftkit.bench.contestant import compete
from peftkit.bench.job import Job

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""What `all-linear` is called here."""


def train(job: Job, folder: Path) -> dict[str, Any]:
    """Train a job with Unsloth."""
    from unsloth import FastLanguageModel  # isort: skip - it patches what is imported after it

    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from peftkit.bench.stopwatch import Stopwatch

    if job.method != "lora":
        raise ValueError(f"this script trains lora, and the job asks for {job.method}")
    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=job.model,
        max_seq_length=job.max_length,
        dtype=getattr(torch, job.dtype),
        load_in_4bit=job.quantization == "nf4",
        load_in_8bit=job.quantization == "int8",
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=job.r,
        lora_alpha=job.lora_alpha,
        lora_dropout=job.lora_dropout,
        target_modules=LAYERS if job.targets == "all-linear" else job.targets,
        use_gradient_checkpointing="unsloth",
        random_state=job.seed,
    )
    watch = Stopwatch(job)
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"input_ids": job.input_ids, "labels": job.labels}),
        args=SFTConfig(
            output_dir=str(folder),
            max_length=job.max_length,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            per_device_train_batch_size=job.batch,
            gradient_accumulation_steps=job.accumulation,
            max_steps=job.steps,
            learning_rate=job.learning_rate,
            lr_scheduler_type=job.lr_scheduler_type,
            warmup_steps=round(job.warmup_fraction * job.steps),
            weight_decay=job.weight_decay,
            max_grad_norm=job.max_grad_norm,
            bf16=job.dtype == "bfloat16",
            fp16=job.dtype == "float16",
            seed=job.seed,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        callbacks=[watch],
    )
    watch.watch(trainer)
    trainer.train()
    return watch.result()


if __name__ == "__main__":
    compete(train)
