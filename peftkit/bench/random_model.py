"""A well-known model's shapes with random weights, as a folder that every contestant loads like any other."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from peftkit.errors import ConfigError
from peftkit.model.weight_files import SINGLE, write_header
from peftkit.plan.outline import shallow
from peftkit.plan.shapes import known_models, known_settings
from peftkit.plan.tokenizer import blank_tokenizer

_DRAWN = 1 << 22  # random values that are repeated: what a step takes does not depend on them
_SCALE = 0.02
_ONE = 0x3F80  # 1.0 in bfloat16


def random_model(name: str, layers: int | None, positions: int, folder: Path) -> Path:
    """Write a model in bfloat16, with a tokenizer of two tokens, unless it is there; return its folder.

    Args:
        name: Of the model whose shapes are taken.
        layers: Number of its layers; None for all.
        positions: Tokens that it must be able to read.
        folder: Holds the models.

    Raises:
        ConfigError: There is no such model in the table of shapes.
    """
    settings = known_settings(name)
    if settings is None:
        raise ConfigError(f"shapes: no model '{name}' is known; there are {', '.join(known_models())}")
    settings = shallow(settings, layers) if layers else settings
    settings.max_position_embeddings = max(positions, settings.max_position_embeddings)
    settings.dtype = "bfloat16"
    shapes, settings.architectures = _shapes(settings)
    place = folder / f"{name.rpartition('/')[2]}-{settings.num_hidden_layers}-{settings.max_position_embeddings}"
    if place.is_dir():
        return place
    place.mkdir(parents=True)
    settings.save_pretrained(place)
    blank_tokenizer().save_pretrained(place)
    block = _block()
    ones = _ONE.to_bytes(2, "little")
    with (place / SINGLE).open("wb") as out:
        sizes = {one: 2 * math.prod(shape) for one, shape in shapes.items()}
        out.write(write_header({one: ("BF16", shapes[one], sizes[one]) for one in shapes}, {"format": "pt"}))
        for one, shape in shapes.items():
            if len(shape) == 1 and "norm" in one:  # with other scales a deep model's values would vanish
                out.write(ones * shape[0])
            else:
                for start in range(0, sizes[one], len(block)):
                    out.write(block[: sizes[one] - start])
    (place / "generation_config.json").write_text(json.dumps({"eos_token_id": 1, "pad_token_id": 0}))
    return place


def _shapes(settings: Any) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Return the shape of each parameter that is stored, without those that are tied to another, and the class."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings)
    return {name: tuple(value.shape) for name, value in model.named_parameters()}, [type(model).__name__]


def _block() -> bytes:
    import numpy as np

    drawn = np.random.default_rng(0).normal(0, _SCALE, _DRAWN).astype(np.float32)
    return (drawn.view(np.uint32) >> 16).astype(np.uint16).tobytes()  # bfloat16: the upper half of a float32
