"""What an adapter method does on the tiny model: two steps of training, saved, and loaded again."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch

from peftkit import machine
from peftkit.adapter.adalora import after_optimizer_step
from peftkit.adapter.attach import WEIGHTS, attach, count_parameters, load_adapter, save_adapter
from peftkit.adapter.methods import METHODS
from peftkit.adapter.starts import STARTS
from peftkit.config import AdapterConfig, ModelConfig, RunConfig
from peftkit.model.load import Source, load_model

torch.set_num_threads(1)
machine.quiet_libraries()

STEPS = 2
IDS = torch.randint(3, 250, (2, 24), generator=torch.Generator().manual_seed(3))
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": IDS}
# What the tiny layers, of 32 to 128 columns, need in place of PEFT's own sizes.
EXTRA = {
    "c3a": {"block_size": 32},
    "p_tuning": {"encoder_hidden_size": 32},
    "road": {"group_size": 32},
    "trainable_tokens": {"token_indices": [1, 2]},
    "unilora": {"theta_d_length": 256},
    "vblora": {"vector_length": 32, "num_vectors": 16},
    "waveft": {"n_frequency": 100},
}
CASES = {
    **{method.name: {"method": method.name} for method in METHODS},
    "lora use_rslora": {"use_rslora": True},
    "lora use_dora": {"use_dora": True},
    **{
        f"lora {start.name}": {"init_lora_weights": start.name} | ({"lora_alpha": 4} if start.name == "loftq" else {})
        for start in STARTS
        if start.name != "true"
    },
    "lora pissa_niter_4": {"init_lora_weights": "pissa_niter_4"},
}


def settings(case: str, **more) -> AdapterConfig:
    """The settings of a case, with a rank of four where there is one."""
    method = next(one for one in METHODS if one.name == CASES[case].get("method", "lora"))
    rank = {"r": 4} if method.rank else {}
    return AdapterConfig(**{"extra": EXTRA.get(method.name, {}), **rank, **CASES[case], **more})


class Bases:
    """The tiny model held in each way, loaded once and copied."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept = {}

    def config(self, quantization: str, dtype: str = "float32") -> ModelConfig:
        return ModelConfig(path=str(self.folder), quantization=quantization, dtype=dtype)

    def get(self, quantization: str, dtype: str = "float32"):
        key = quantization, dtype
        if key not in self.kept:
            config = RunConfig(recipe="none", model=self.config(*key).model_dump())
            self.kept[key] = load_model(Source(str(self.folder)), config, "causal")
        return copy.deepcopy(self.kept[key])


def logits(model) -> torch.Tensor:
    """Logits of the last 24 positions, of shape (2, 24, vocabulary)."""
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits[:, -IDS.shape[1] :].float()


def train(model, steps: int = STEPS):
    """Train in place; give the values before by name."""
    before = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    model.train()
    for step in range(steps):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        after_optimizer_step(model, step)
        optimizer.zero_grad()
    return before


@dataclass(frozen=True)
class Outcome:
    """What was seen; numbers are of the tiny model."""

    parameters: int
    bytes: int
    moved: float
    dtypes: frozenset
    base_kept: bool
    effect: float
    start: float
    reload_error: float


def exercise(bases: Bases, case: str, quantization: str, folder: Path, dtype: str = "float32") -> Outcome:
    """Attach, train two steps, save, load, and say what was seen."""
    base = bases.get(quantization, dtype)
    reference = logits(base)
    model = attach(
        base,
        settings(case),
        base=bases.config(quantization, dtype),
        seed=0,
        steps=STEPS,
        batches=[BATCH],
    )
    start = logits(model)
    before = train(model)
    after = logits(model)
    with model.disable_adapter():
        kept = torch.equal(logits(model), reference)
    save_adapter(model, folder)
    torch.manual_seed(99)  # nothing that is loaded may depend on chance
    loaded = load_adapter(bases.get(quantization, dtype), folder)
    now = dict(model.named_parameters())
    return Outcome(
        count_parameters(model)[0],
        (folder / WEIGHTS).stat().st_size,
        sum(not torch.equal(now[name], value) for name, value in before.items()) / len(before),
        frozenset(value.dtype for value in before.values()),
        kept,
        float((after - reference).norm() / reference.norm()),
        float((start - reference).norm() / reference.norm()),
        float((logits(loaded) - after).abs().max()),
    )
