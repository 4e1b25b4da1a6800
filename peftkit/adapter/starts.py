"""The starts of LoRA: how its two matrices can be set before training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from peftkit.adapter.methods import FLOATS, PLAIN, quantized


@dataclass(frozen=True)
class Start:
    """One start of LoRA's matrices, `adapter.init_lora_weights`.

    Attributes:
        name: PEFT's name.
        when: When to choose it.
        paper: arXiv number, where there is a paper.
        reads_base: It decomposes base weights, so PEFT would change them; here they stay as they are.
        needs_data: It looks at training rows first.
        refuses: Kinds of weights that it cannot start from, and why.
    """

    name: str
    when: str
    paper: str | None = None
    reads_base: bool = False
    needs_data: bool = False
    refuses: Mapping[str, str] = field(default_factory=dict)

    def refusal(self, quantization: str) -> str | None:
        """Say why it cannot start from weights that are held so; None if it can."""
        return self.refuses.get("nf4" if quantization == "fp4" else quantization)


STARTS = (
    Start("true", "the default: A at random, B zero"),
    Start("false", "both at random, so the model starts elsewhere: for tests"),
    Start("gaussian", "A from a normal distribution, B zero"),
    Start(
        "orthogonal",
        "orthogonal A and B; r must be even",
        refuses=quantized(PLAIN),
    ),
    Start("mica", "trains A alone, in the weights' minor directions", "2604.01694", refuses=quantized(FLOATS)),
    Start(
        "pissa",
        "faster first steps: starts from the principal directions; pissa_niter_4 is quicker and approximate",
        "2404.02948",
        reads_base=True,
        refuses=quantized(FLOATS),
    ),
    Start("olora", "as pissa, from a QR decomposition; works on quantized weights too", "2406.01775", reads_base=True),
    Start(
        "corda",
        "as pissa, in the directions that training rows use",
        "2406.05223",
        reads_base=True,
        needs_data=True,
        refuses=quantized(FLOATS),
    ),
    Start(
        "lora_ga",
        "starts along the first gradient of full fine-tuning",
        "2407.05000",
        reads_base=True,
        needs_data=True,
        refuses=quantized("PEFT needs gradients of the weights themselves, which quantized ones have not"),
    ),
    Start(
        "eva", "A from the activations of training rows, and rank where they vary most", "2410.07170", needs_data=True
    ),
    Start(
        "loftq",
        "makes up for what 4-bit weights lost; needs a GPU at the start",
        "2310.08659",
        refuses={
            "none": "it makes up for what quantization lost, so it needs model.quantization=nf4",
            "int8": "PEFT can do it on 4-bit weights only",
        },
    ),
)


def find_start(name: str) -> Start:
    """Find a start of LoRA; `pissa_niter_4` is `pissa`.

    Raises:
        ValueError: There is none.
    """
    plain = "pissa" if re.fullmatch(r"pissa_niter_[1-9]\d*", name) else name
    for start in STARTS:
        if start.name == plain:
            return start
    raise ValueError(f"'{name}' is no start of LoRA in PEFT; there are {', '.join(start.name for start in STARTS)}")
