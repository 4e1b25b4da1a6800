"""Small models of each family with examples that they can learn, made without files."""

import gc
from pathlib import Path

import torch

from peftkit import machine
from peftkit.adapter.attach import attach
from peftkit.config import RunConfig
from peftkit.data.examples import Example
from peftkit.model.family import TASK_TYPES
from peftkit.model.load import find_model, load_model, load_tokenizer
from peftkit.train.trainers import make_trainer

from ..models import tiny

torch.set_num_threads(1)
machine.quiet_libraries()
gc.freeze()  # a collection after each load need not look at all that was imported

GOOD = ("good", "great", "lovely", "fine")
BAD = ("bad", "awful", "dull", "poor")
LABELS = ("negative", "positive")
MODELS = {"causal": "llama", "head": "bert", "seq2seq": "t5"}
KINDS = {"causal": "generation", "head": "classification", "seq2seq": "generation"}


def configuration(family, task=None, **train) -> RunConfig:
    """A configuration of twelve steps on a tiny model of a family, its base weights in float32."""
    model = train.pop("model", {})
    adapter = train.pop("adapter", {})
    return RunConfig(
        recipe="sentiment",
        task={"kind": KINDS[family], "labels": LABELS, **(task or {})},
        model={"path": str(tiny(MODELS[family])), "quantization": "none", "dtype": "float32", **model},
        adapter={"r": 4, **adapter},
        train={"max_steps": 12, "learning_rate": 1e-2, "per_device_train_batch_size": 8, "save_steps": 100, **train},
    )


def examples(family, config, count=16, weights=None):
    """Short reviews of different lengths, and what a family is trained on."""
    tokenizer = load_tokenizer(find_model(config.model))
    made = []
    for number in range(count):
        side = number % 2
        text = " ".join(["it was a"] * (1 + number % 3) + [(GOOD if side else BAD)[number % 4], "film"])
        ids = tokenizer(text)["input_ids"]
        answer = [] if family == "head" else tokenizer(LABELS[side])["input_ids"]
        weight = 1.0 if weights is None else weights[number]
        target = _target(config.task, side) if family == "head" else None
        made.append(Example(f"row {number}", {}, LABELS[side], ids, answer, False, target=target, weight=weight))
    return made


def _target(task, side):
    if task.kind == "regression":
        return side - 0.5
    return (float(side), 1.0 - side) if task.multi_label else side


class Run:
    """A trainer on a fresh tiny model, and what it logs."""

    def __init__(self, folder: Path, family, config, rows=None, callbacks=()):
        source = find_model(config.model)
        rows = examples(family, config) if rows is None else rows
        base = load_model(source, config, family)
        seed = config.train.seed
        asked = {"base": config.model, "seed": seed, "task_type": TASK_TYPES[family], "steps": config.train.max_steps}
        self.model = attach(base, config.adapter, **asked)
        tokenizer = load_tokenizer(source)
        self.trainer = make_trainer(self.model, family, tokenizer, rows, config, folder / "checkpoints", callbacks)

    def losses(self):
        """Train, and return the loss of each step."""
        self.trainer.train()
        return [line["loss"] for line in self.trainer.state.log_history if "loss" in line]

    def gradients(self):
        """Return the gradient of the first optimizer step over all rows, in the order that the trainer takes them."""
        for module in self.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            elif isinstance(getattr(module, "dropout", None), float):  # T5's attention
                module.dropout = 0.0
        self.trainer.create_optimizer()
        batches = list(self.trainer.get_train_dataloader())
        _, total = self.trainer.get_batch_samples(iter(batches), len(batches), self.trainer.args.device)
        self.trainer.current_gradient_accumulation_steps = len(batches)
        for batch in batches:
            self.trainer.training_step(self.trainer.model, batch, total)
        return {name: value.grad.clone() for name, value in self.model.named_parameters() if value.grad is not None}


def trained(model):
    """Return the parameters that are trained, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def falls(losses):
    """Whether the mean of the last four losses is below that of the first four."""
    return len(losses) == 12 and sum(losses[-4:]) < sum(losses[:4])
