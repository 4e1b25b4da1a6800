"""Presets that recipes share: the embedded model for any machine, and a Qwen3 for each size of GPU."""

from collections.abc import Mapping
from typing import Any

from peftkit import Preset

Values = Mapping[str, Any]


def tiny(train_rows: int, **more: Values) -> Preset:
    """Values for a machine without a GPU: the embedded model, and as many rows as take minutes; `more` by group."""
    values: dict[str, Values] = {
        "model": {"path": "smollm2-135m-instruct", "quantization": "nf4"},
        "data": {"train_rows": train_rows},
        "train": {"learning_rate": 5e-4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    }
    return Preset(
        "any machine, no GPU needed: SmolLM2-135M in NF4, minutes on two cores",
        0,
        {group: {**values.get(group, {}), **more.get(group, {})} for group in {**values, **more}},
    )


def encoder(train_rows: int) -> Preset:
    """Values for a small encoder with a head, which learns labels and scores in a minute or two without a GPU."""
    return Preset(
        "any machine, no GPU needed: the encoder MiniLM-L6 with a head, a minute or two on two cores",
        0,
        {
            "model": {"path": "minilm-l6", "quantization": "none"},
            "data": {"train_rows": train_rows},
            "train": {
                "learning_rate": 5e-4,
                "num_train_epochs": 2,
                "per_device_train_batch_size": 16,
                "max_length": 64,
            },
            "evaluate": {"max_rows": 500},
        },
    )


def on_gpus(**train: Any) -> dict[str, Preset]:
    """Values for one GPU of 12, 24 or 48 GB; `train` holds more values of that group."""
    return {
        "12gb": on_gpu(12, "Qwen/Qwen3-4B-Instruct-2507", train),
        "24gb": on_gpu(24, "Qwen/Qwen3-8B", train),
        "48gb": on_gpu(48, "Qwen/Qwen3-32B", {"learning_rate": 1e-4, **train}),
    }


def on_gpu(memory: int, model: str, train: Values) -> Preset:
    """Values for one GPU of `memory` GB."""
    return Preset(
        f"one GPU with {memory} GB: {model.removeprefix('Qwen/')} in NF4",
        memory,
        {
            "model": {"path": model, "quantization": "nf4", "chat_template_kwargs": {"enable_thinking": False}},
            "train": {"per_device_train_batch_size": 16, "gradient_checkpointing": True, **train},
        },
    )
