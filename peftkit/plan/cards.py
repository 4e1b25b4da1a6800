"""GPUs by name: their memory, how fast they multiply bfloat16 matrices, and how fast they read memory."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace

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
        float32: The same in float32, as torch computes them if nothing is said: without TF32.
        bandwidth: Bytes a second to and from its memory.
        bfloat16: Whether it computes in bfloat16.
        context: Bytes that the driver and CUDA's libraries take for a process, which torch does not count.
        workspace: Bytes that cuBLAS gets from torch.
        kind: `cuda` or `cpu`.
        here: Whether it is this machine's own, so that earlier runs can say how fast it is.
    """

    name: str
    memory: int
    tflops: float
    float32: float
    bandwidth: float
    bfloat16: bool = True
    context: int = 450 * MIB
    workspace: int = 8 * MIB + MIB // 8
    kind: str = "cuda"
    here: bool = False

    def flops(self, itemsize: int) -> float:
        """Return the operations a second of dense products of numbers of so many bytes."""
        return 1e12 * (self.float32 if itemsize > 2 else self.tflops)


def _card(name: str, gib: float, tflops: float, float32: float, gigabytes: float, **more: bool | int) -> Card:
    return Card(name, int(gib * GIB), tflops, float32, gigabytes * 1e9, **more)  # type: ignore[arg-type]


_TURING = {"bfloat16": False, "context": 300 * MIB}
_HOPPER = {"workspace": 32 * MIB, "context": 550 * MIB}
CARDS: tuple[Card, ...] = (
    _card("RTX 2080 Ti", 10.74, 53.8, 13.4, 616, **_TURING),
    _card("RTX 3060 12GB", 11.66, 25.5, 12.7, 360),
    _card("RTX 3060 Ti", 7.66, 32.4, 16.2, 448),
    _card("RTX 3070", 7.66, 40.6, 20.3, 448),
    _card("RTX 3080 10GB", 9.64, 59.5, 29.8, 760),
    _card("RTX 3080 Ti", 11.66, 68.2, 34.1, 912),
    _card("RTX 3090", 23.58, 71.2, 35.6, 936),
    _card("RTX 3090 Ti", 23.58, 80, 40, 1008),
    _card("RTX 4060", 7.61, 30.2, 15.1, 272),
    _card("RTX 4060 Ti 16GB", 15.59, 44.1, 22.1, 288),
    _card("RTX 4070", 11.6, 58.3, 29.1, 504),
    _card("RTX 4070 Ti", 11.6, 80.2, 40.1, 504),
    _card("RTX 4070 Ti SUPER", 15.57, 88.2, 44.1, 672),
    _card("RTX 4080", 15.6, 97.5, 48.7, 717),
    _card("RTX 4080 SUPER", 15.6, 104.4, 52.2, 736),
    _card("RTX 4090", 23.53, 165.2, 82.6, 1008),
    _card("RTX 5070", 11.5, 61.7, 30.9, 672),
    _card("RTX 5070 Ti", 15.47, 87.9, 43.9, 896),
    _card("RTX 5080", 15.47, 112.6, 56.3, 960),
    _card("RTX 5090", 31.36, 209.5, 104.8, 1792),
    _card("RTX A4000", 15.7, 76.7, 19.2, 448),
    _card("RTX A5000", 23.6, 111.1, 27.8, 768),
    _card("RTX A6000", 47.4, 154.8, 38.7, 768),
    _card("RTX 6000 Ada", 47.4, 364.2, 91.1, 960),
    _card("A10G", 22.06, 70, 35, 600),
    _card("A10", 22.06, 125, 31.2, 600),
    _card("A40", 44.4, 149.7, 37.4, 696),
    _card("A100 40GB", 39.4, 312, 19.5, 1555),
    _card("A100 80GB", 79.25, 312, 19.5, 2039),
    _card("H100 PCIe", 79.1, 756, 51, 2000, **_HOPPER),
    _card("H100 80GB", 79.1, 989, 67, 3350, **_HOPPER),
    _card("H200", 139.8, 989, 67, 4800, **_HOPPER),
    _card("L4", 22.05, 121, 30.3, 300),
    _card("L40", 44.4, 181, 90.5, 864),
    _card("L40S", 44.4, 362, 91.6, 864),
    _card("T4", 14.56, 65, 8.1, 320, **_TURING),
    _card("V100 16GB", 15.77, 125, 15.7, 900, **_TURING),
    _card("V100 32GB", 31.7, 125, 15.7, 900, **_TURING),
)
"""Name, memory that torch reports (`torch.cuda.get_device_properties`; it varies by a few tens of MiB with the driver),
10^12 operations a second in 16 bits and in float32, and GB a second.

Rates are dense, with float32 sums, as NVIDIA states them; those of T4, V100, A40, A100, H100, L4, L40, L40S and of the
RTX 3090, 4070, 4080, 4090 and 5090 were compared with published tables, the others follow from cores and clocks.
Workstation cards multiply four times as fast in 16 bits as in float32, and GeForce cards since Ampere twice as fast;
float32 is twice the cores times the boost clock. What `peftkit doctor` measures goes before these figures."""

_BY_SIZE = {
    8: "RTX 4060",
    10: "RTX 3080 10GB",
    12: "RTX 4070",
    16: "RTX 4080",
    24: "RTX 4090",
    32: "RTX 5090",
    40: "A100 40GB",
    48: "L40S",
    80: "A100 80GB",
    141: "H200",
}
"""A usual card of each size."""

_USABLE = 0.98  # of a card's nominal memory
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(gb|gib|g)?", re.IGNORECASE)
_MOST = 512
"""Gigabytes of the largest size: a number above it and without a unit is a card's name, such as 4090."""


def find_card(word: str) -> Card:
    """Return the card that a word names: `RTX 4090`, `4090`, `a100`, or a size such as `24GB`.

    A size takes the rates of a usual card of about that size.

    Raises:
        ConfigError: No card has such a name, or none can have such a size.
    """
    if (size := _SIZE.fullmatch(word.strip())) and (size[2] or float(size[1]) <= _MOST):
        if not 0 < float(size[1]) <= _MOST:
            raise ConfigError(f"--gpu '{word}': a card's size is more than 0 and at most {_MOST} GB, such as 24GB")
        return _of_size(float(size[1]))
    asked = _letters(word)
    for card in CARDS:
        if _letters(card.name) == asked:
            return card
    held = [card for card in CARDS if asked and (asked in _letters(card.name) or _letters(card.name) in asked)]
    if held and "laptop" not in asked:  # a laptop's card has the name of a faster one
        return min(held, key=lambda card: abs(len(_letters(card.name)) - len(asked)))
    names = {card.name.lower(): card.name for card in CARDS}
    near = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.4)
    hint = f"did you mean '{names[near[0]]}'?" if near else f"there are {', '.join(names.values())}"
    raise ConfigError(f"--gpu '{word}': no card of that name is known; give a size, such as 24GB, or a name: {hint}")


def _of_size(gigabytes: float) -> Card:
    nearest = min(_BY_SIZE, key=lambda size: abs(size - gigabytes))
    like = find_card(_BY_SIZE[nearest])
    return replace(like, name=f"{gigabytes:g}GB", memory=int(gigabytes * GIB * _USABLE))


def _letters(name: str) -> str:
    return re.sub(r"nvidia|geforce|[^a-z0-9]", "", name.lower())
