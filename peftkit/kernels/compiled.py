"""Layers that are compiled one by one: what torch.compile takes minutes for is a layer, and not the whole model.

A layer keeps its name and its weights; only its forward pass is another. Layers of one kind share what was compiled. A
recomputed layer is compiled inside of its checkpoint, which stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

BACKEND = "inductor"


class Compiled:
    """Runs one layer compiled; set as its `forward`, and taken away by `undo`.

    Args:
        layer: A `GradientCheckpointingLayer` of transformers.
        run: The compiled forward pass of its class, without the checkpoint around it.
    """

    def __init__(self, layer: Any, run: Callable[..., Any]) -> None:
        self.layer, self.run = layer, run
        layer.forward = self

    def undo(self) -> None:
        """Give the layer its own forward pass back."""
        del self.layer.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the layer's output."""
        layer = self.layer
        if layer.gradient_checkpointing and layer.training:
            return layer._gradient_checkpointing_func(partial(self.run, layer, **kwargs), *args)
        return self.run(layer, *args, **kwargs)


def compile_layers(layers: Sequence[Any]) -> list[Compiled]:
    """Have layers run compiled forward passes.

    Torch compiles a kind of layer when it meets it first, and again where its input needs no gradient, as that of the
    first layer, and when lengths turn out to differ.
    """
    # transformers wraps the forward pass of such a class in one that checkpoints.
    runs = {kind: torch.compile(kind.forward.__wrapped__, backend=BACKEND) for kind in {type(one) for one in layers}}
    return [Compiled(one, runs[type(one)]) for one in layers]
