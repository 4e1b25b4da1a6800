"""Changes of a configuration that save memory or time, one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from peftkit.config import RunConfig
from peftkit.plan.forecast import Subject

TILE = 4096
"""Tokens of a tile of feed-forward layers: enough that dequantizing their weights for it hardly counts."""

Values = Mapping[str, Any]
CHEAP: Values = {"train.recompute_pointwise": True}
_LEAST_LENGTH = 128  # rows are not advised to be cut below half of it


@dataclass(frozen=True)
class Change:
    """One change.

    Attributes:
        values: New values by key, such as `train.gradient_checkpointing`.
        why: What it does, in a few words.
    """

    values: Values
    why: str

    @property
    def words(self) -> str:
        """The change as words of a command line."""
        return " ".join(f"{key}={_word(value)}" for key, value in self.values.items())


def changed(config: RunConfig, values: Values) -> RunConfig:
    """Return a configuration with other values; keys of `extra` may be written as `train.extra.NAME`."""
    nested: dict[str, Any] = config.model_dump()
    for key, value in values.items():
        group, name, *own = key.split(".", 2)
        if own:
            nested[group][name] = {**nested[group][name], own[0]: value}
        else:
            nested[group][name] = value
    return RunConfig.model_validate(nested)


def smaller(subject: Subject) -> Iterator[Change]:
    """Yield changes that save memory, those first that cost least."""
    config, train = subject.config, subject.config.train
    judged = subject.load.judged(config).rows
    if judged > 1:
        yield Change(
            {"evaluate.batch_size": max(1, judged // 4)}, "judge fewer held-out rows at once; training is the same"
        )
    if config.model.quantization == "none" and subject.family != "head":
        yield Change({"model.quantization": "nf4"}, "hold the frozen weights in 4 bits")
    if config.model.quantization == "int8":
        yield Change({"model.quantization": "nf4"}, "4 bits in place of 8")
    rows, passes = train.per_device_train_batch_size, train.gradient_accumulation_steps
    for size in dict.fromkeys(max(1, rows // divisor) for divisor in (2, 8, 64)):
        if size < rows:
            yield micro_batch(size, -(-rows * passes // size), "fewer rows at once, as many in a step")
    if not recomputes(config):
        if not train.recompute_pointwise and not train.tiled_mlp:
            yield Change(CHEAP, "recompute norms and activation functions: 2/5 less, a few percent slower")
        yield Change({"train.gradient_checkpointing": True}, "recompute activations: less memory, a third slower")
    layers = _layers(subject)
    if isinstance(train.checkpoint_layers, int) and train.checkpoint_layers < layers:
        yield Change({"train.checkpoint_layers": layers}, "recompute all layers")
    on = {} if recomputes(config) else {"train.gradient_checkpointing": True}
    batch = subject.load.batch(config)
    if not train.tiled_mlp and batch.rows * batch.length > TILE:
        yield Change({**on, "train.tiled_mlp": TILE}, f"feed-forward layers {TILE} tokens at a time")
    if not (train.offload_activations or train.extra.get("activation_offloading")):
        yield Change({**on, "train.offload_activations": True}, "what is kept for recomputing waits in main memory")
    if train.optim in ("adamw", "adam", "paged_adamw"):
        yield Change({"train.optim": "adamw_8bit"}, "the optimizer's state in 8 bits")
    if config.adapter.r and config.adapter.r > 8 and config.adapter.method == "lora":
        yield Change({"adapter.r": max(8, config.adapter.r // 2)}, "half the rank: a smaller adapter")
    if train.max_length >= _LEAST_LENGTH:
        yield Change({"train.max_length": train.max_length // 2}, "cut longer texts")


def faster(subject: Subject) -> Iterator[Change]:
    """Yield changes that take more memory and less time."""
    config, train = subject.config, subject.config.train
    if train.gradient_checkpointing:
        off = {"train.gradient_checkpointing": False}
        yield Change(off, "recompute nothing")
        if not train.tiled_mlp:
            yield Change({**off, **CHEAP}, "recompute norms and activation functions only")
        layers = _layers(subject)
        for part in (1, 2, 3) if train.checkpoint_layers is None and layers >= 4 else ():
            values = {"train.checkpoint_layers": layers * part // 4, **({} if train.tiled_mlp else CHEAP)}
            yield Change(values, f"recompute {part} of 4 layers only")
    rows, passes = train.per_device_train_batch_size, train.gradient_accumulation_steps
    for factor in (4, 2):
        if passes % factor == 0:
            yield micro_batch(rows * factor, passes // factor, "more rows at once, as many in a step")
    packs = subject.family == "causal" and not config.data.weight_column and not train.class_weights
    if packs and not train.packing and not train.balance_classes and subject.load.mean < 0.5 * train.max_length:
        together = max(1, round(rows * subject.load.mean / train.max_length))
        yield Change(
            {"train.packing": True, "train.per_device_train_batch_size": together}, "pack rows, without padding"
        )
    if config.model.quantization != "none":
        yield Change({"model.quantization": "none"}, "no dequantization; weights as they are")


def micro_batch(rows: int, passes: int, why: str) -> Change:
    """Return the change to so many rows of a forward pass, and so many passes of a step."""
    return Change(
        {"train.per_device_train_batch_size": rows, "train.gradient_accumulation_steps": passes},
        why,
    )


def _layers(subject: Subject) -> int:
    return int(subject.settings.get_text_config().num_hidden_layers)


def recomputes(config: RunConfig) -> bool:
    """Whether activations are recomputed, by the key of their own or by an argument of the trainer."""
    train = config.train
    names = ("activation_checkpointing", "gradient_checkpointing")
    return train.gradient_checkpointing or any(train.extra.get(name) for name in names)


def _word(value: Any) -> str:
    import json

    if isinstance(value, bool):
        return str(value).lower()
    return f"'{json.dumps(value)}'" if isinstance(value, dict) else str(value)
