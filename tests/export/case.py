"""A trained adapter with rsLoRA and patterns for ranks and scales, and what base and adapter compute in PEFT."""

import argparse
import difflib
import heapq
import itertools
import random
import statistics
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

LENGTH = 40
STEPS = 30
TRAINED = (heapq.__about__, random.__doc__, statistics.__doc__)
JUDGED = (argparse.__doc__, difflib.SequenceMatcher.__doc__, textwrap.TextWrapper.__doc__)


@dataclass(frozen=True)
class Case:
    """A base, an adapter, and logits in float64 of shape (texts, positions, vocabulary).

    Attributes:
        base: Folder of the base.
        adapter: Folder of the adapter.
        ids: Token ids to read.
        plain: Logits of the base.
        adapted: Logits of base and adapter.
    """

    base: Path
    adapter: Path
    ids: list[list[int]]
    plain: np.ndarray
    adapted: np.ndarray


def make_case(base: Path, folder: Path) -> Case:
    """Train an adapter on a few lines, in float32, until its effect can be seen."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    train, ids = (_rows(tokenizer, several) for several in (TRAINED, JUDGED))
    torch.manual_seed(0)
    settings = LoraConfig(
        r=8,
        lora_alpha=12,
        use_rslora=True,
        rank_pattern={"down_proj": 16, "layers.3.self_attn.q_proj": 4},
        alpha_pattern={"v_proj": 5, "layers.7.mlp.up_proj": 24},
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), settings)
    optimizer = torch.optim.AdamW((one for one in model.parameters() if one.requires_grad), lr=1e-4)
    for step in range(STEPS):
        batch = torch.tensor([train[(4 * step + place) % len(train)] for place in range(4)])
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder / "adapter")
    model.eval()
    adapted = logits(model, ids)
    with model.disable_adapter():
        return Case(base, folder / "adapter", ids, logits(model, ids), adapted)


def _rows(tokenizer, several) -> list[list[int]]:
    ids = tokenizer("\n".join(several))["input_ids"]
    return [ids[start : start + LENGTH] for start in range(0, min(len(ids) - LENGTH, 12 * LENGTH), LENGTH)]


def logits(model, ids) -> np.ndarray:
    with torch.inference_mode():
        return model(input_ids=torch.tensor(ids)).logits.double().numpy()


def in_peft(base: Path, adapter: Path, ids) -> np.ndarray:
    """Logits in float64, so that rounding on the way hides nothing."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    return logits(PeftModel.from_pretrained(model, adapter).eval(), ids)


def padded(ids: list[list[int]]) -> np.ndarray:
    """Rows of ids, filled up with -1."""
    return np.array(list(itertools.zip_longest(*ids, fillvalue=-1))).T
