"""GPUs by name: their memory, how fast they multiply bfloat16 matrices, and how fast they read memory."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from peftkit.errors import ConfigError

GIB = 1 << 30
MIB = 1 << 20


@dataclass(frozen=True)
class Card:
    """One GPU, or a processor.

    Attributes:
        name: As its maker calls it.
        memory: Bytes that a program can have, with nothing else on the card.
        tflops: Dense products in bfloat16 (float16 before Ampere) with float32 sums, in 10^12 operations a second.
        bandwidth: Bytes a second to and from its memory.
        bfloat16: Whether it computes in bfloat16.
        context: Bytes that the driver and CUDA's libraries take for a process, which torch does not count.
        workspace: Bytes that cuBLAS gets from torch.
        kind: `cuda` or `cpu`.
    """

    name: str
    memory: int
    tflops: float
    bandwidth: float
    bfloat16: bool = True
    context: int = 450 * MIB
    workspace: int = 8 * MIB + MIB // 8
    kind: str = "cuda"


def _card(name: str, gib: float, tflops: float, gigabytes: float, **more: bool | int) -> Card:
    return Card(name, int(gib * GIB), tflops, gigabytes * 1e9, **more)  # type: ignore[arg-type]


_HOPPER = {"workspace": 32 * MIB, "context": 550 * MIB}
CARDS: tuple[Card, ...] = (
    _card("RTX 3060 12GB", 11.66, 26, 360),
    _card("RTX 3080 10GB", 9.64, 59, 760),
    _card("RTX 3090", 23.58, 71, 936),
    _card("RTX 4060 Ti 16GB", 15.59, 44, 288),
    _card("RTX 4070", 11.6, 58, 504),
    _card("RTX 4080", 15.6, 97, 717),
    _card("RTX 4090", 23.53, 165, 1008),
    _card("RTX 5070 Ti", 15.47, 88, 896),
    _card("RTX 5080", 15.47, 113, 960),
    _card("RTX 5090", 31.36, 210, 1792),
    _card("RTX A4000", 15.7, 77, 448),
    _card("RTX A6000", 47.4, 155, 768),
    _card("RTX 6000 Ada", 47.4, 364, 960),
    _card("A10G", 22.06, 70, 600),
    _card("A10", 22.06, 125, 600),
    _card("A100 40GB", 39.4, 312, 1555),
    _card("A100 80GB", 79.25, 312, 2039),
    _card("H100 80GB", 79.1, 989, 3350, **_HOPPER),
    _card("H200", 139.8, 989, 4800, **_HOPPER),
    _card("L4", 22.05, 121, 300),
    _card("L40S", 44.4, 362, 864),
    _card("T4", 14.56, 65, 320, bfloat16=False, context=300 * MIB),
    _card("V100 32GB", 31.7, 125, 900, bfloat16=False, context=300 * MIB),
)
"""Rates: the makers' data sheets, dense; GeForce cards at half rate, as their float32 sums make it (NVIDIA's papers on
Ampere, Ada and Blackwell). Memory: what torch reports of such cards (`torch.cuda.get_device_properties`)."""

_BY_SIZE = {8: "RTX 4070", 10: "RTX 3080 10GB", 12: "RTX 4070", 16: "RTX 4080", 24: "RTX 4090", 32: "RTX 5090"}
_USABLE = 0.98  # of a card's nominal memory
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:gb|gib|g)?", re.IGNORECASE)


def find_card(word: str) -> Card:
    """Return the card that a word names: `RTX 4090`, `4090`, `a100`, or a size such as `24GB`.

    A size takes the rates of a usual card of about that size.

    Raises:
        ConfigError: No card has such a name.
    """
    if (size := _SIZE.fullmatch(word.strip())) and float(size[1]) <= 512:
        return _of_size(float(size[1]))
    asked = _letters(word)
    for card in CARDS:
        if _letters(card.name) == asked:
            return card
    held = [card for card in CARDS if asked and (asked in _letters(card.name) or _letters(card.name) in asked)]
    if held:
        return min(held, key=lambda card: abs(len(_letters(card.name)) - len(asked)))
    near = difflib.get_close_matches(word.lower(), [card.name.lower() for card in CARDS], n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(card.name for card in CARDS)}"
    raise ConfigError(f"--gpu {word}: no card of that name is known; {hint} A size such as 24GB works too")


def _of_size(gigabytes: float) -> Card:
    nearest = min(_BY_SIZE, key=lambda size: abs(size - gigabytes))
    like = find_card(_BY_SIZE[nearest] if gigabytes < 40 else "A100 40GB" if gigabytes < 60 else "A100 80GB")
    name = f"{gigabytes:g}GB"
    return Card(
        name, int(gigabytes * GIB * _USABLE), like.tflops, like.bandwidth, True, like.context, like.workspace, "cuda"
    )


def _letters(name: str) -> str:
    return re.sub(r"nvidia|geforce|[^a-z0-9]", "", name.lower())
