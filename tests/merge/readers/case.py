"""A merged model that other programs read, and what they ought to compute with it."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from scipy.special import log_softmax
from transformers import AutoModelForCausalLM, AutoTokenizer

from peftkit.merge.merge import merge

from .environment import read

LENGTH = 20
TEXTS = (
    "The harbour was quiet at dawn, and the fishermen had already carried their nets to the end of the stone pier.",
    "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n    return total",
    "Water boils at a lower temperature on a mountain than at sea level, as the pressure of the air is lower there.",
    "<|im_start|>user\nIs the film worth seeing?<|im_end|>\n<|im_start|>assistant\nYes: it is short, funny, and kind.",
)


@dataclass(frozen=True)
class Case:
    """A merged model in bfloat16, one in float32, and logits in float32.

    Attributes:
        folder: The model merged onto the base as it is embedded, in bfloat16.
        folder32: The same onto the base's values in float32.
        ids: Token ids to read.
        logits: Those of `folder`, through transformers alone.
        logits32: Those of `folder32`.
        base: Those of the base.
        adapted: Those of base and adapter, through PEFT.
    """

    folder: Path
    folder32: Path
    ids: list[list[int]]
    logits: np.ndarray
    logits32: np.ndarray
    base: np.ndarray
    adapted: np.ndarray


def make_case(base: Path, folder: Path) -> Case:
    """Give the base a random LoRA whose effect can be seen, and merge it in both dtypes."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for part in (model, tokenizer):
        part.save_pretrained(folder / "base32")
    torch.manual_seed(0)
    adapted = get_peft_model(
        model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    ).eval()
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.03)
    adapted.save_pretrained(folder / "adapter")
    ids = [tokenizer(text)["input_ids"][:LENGTH] for text in TEXTS]
    found = {}
    for name, own in (("merged", base), ("merged32", folder / "base32")):
        merge([(folder / "adapter", 1.0)], folder / name, base=str(own), proof=False)
        found[name] = read(sys.executable, "with_transformers.py", folder, folder / name, ids)
    with_adapter = _logits(adapted, ids)
    with adapted.disable_adapter():
        plain = _logits(adapted, ids)
    return Case(folder / "merged", folder / "merged32", ids, *found.values(), plain, with_adapter)


def _logits(model, ids) -> np.ndarray:
    with torch.inference_mode():
        return model(input_ids=torch.tensor(ids)).logits.double().numpy()


def mean_kl(expected: np.ndarray, found: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of the next token, in nats."""
    expected, found = log_softmax(expected, axis=-1), log_softmax(found, axis=-1)
    return float((np.exp(expected) * (expected - found)).sum(-1).mean())


def next_token_logprobs(logits: np.ndarray, ids: list[list[int]]) -> np.ndarray:
    """Log-probability of each token after the first."""
    following = np.array(ids)[:, 1:, None]
    return np.take_along_axis(log_softmax(logits, axis=-1)[:, :-1], following, -1)[..., 0]
