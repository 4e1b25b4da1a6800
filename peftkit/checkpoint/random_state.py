"""The states of all generators of random numbers: Python's, numpy's, torch's, and those of the GPUs."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]


def random_state() -> tuple[Tensors, dict[str, Any]]:
    """Return the states as tensors, by the generator's name, and what is no tensor."""
    import numpy as np
    import torch

    version, words, gauss = random.getstate()
    kind, key, place, has_gauss, cached = np.random.get_state()
    tensors = {"python": torch.tensor(words), "numpy": torch.tensor(np.asarray(key, dtype=np.int64))}
    tensors["torch"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors |= {f"cuda/{number}": state for number, state in enumerate(torch.cuda.get_rng_state_all())}
    return tensors, {
        "python": [version, gauss],
        "numpy": [kind, int(place), int(has_gauss), float(cached)],
    }


def set_random_state(tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
    """Put all generators into states that `random_state` returned.

    Raises:
        KeyError: A state is missing.
    """
    import numpy as np
    import torch

    version, gauss = values["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    kind, place, has_gauss, cached = values["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), place, has_gauss, cached))
    torch.set_rng_state(tensors["torch"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all([tensors[f"cuda/{number}"] for number in range(torch.cuda.device_count())])
