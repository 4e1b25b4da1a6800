"""Layers that treat each token by itself, run a tile of tokens at a time, forwards and backwards.

Only the input is kept. What the backward pass needs is made again there, one tile after the other, so that the widest
tensors of a transformer, those inside its feed-forward layers, are as long as a tile and not as long as the text
(the idea of tiled MLPs: Bekman et al. 2025, arXiv 2506.13996).

Inside of a checkpoint this costs no further pass. The input is kept by a step of its own in front of the layer; it is
the last thing that a decoder layer keeps, and torch ends a recomputation with that: the layer itself does not run a
third time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch.utils.checkpoint import get_device_states, set_device_states

Around = Callable[[torch.Tensor], AbstractContextManager[None]]


class Tiled:
    """Runs one layer tile by tile while gradients are computed; set as its `forward`, and taken away by `undo`.

    Args:
        layer: Gives each token, [rows, tokens, size], an output of the same size, whatever the others are.
        tokens: Of a tile.
        around: What to surround all tiles of a pass with, given the layer's input.
        always: Whether the input alone is kept even where one tile takes all tokens.
    """

    def __init__(self, layer: torch.nn.Module, tokens: int, around: Around | None = None, always: bool = False) -> None:
        self.layer = layer
        self.own: Callable[[torch.Tensor], torch.Tensor] = layer.forward
        self.tokens, self.always = tokens, always
        self.around = around or (lambda _: nullcontext())
        self.weights = tuple(one for one in layer.parameters() if one.requires_grad)
        self.draws = any(isinstance(one, torch.nn.Dropout) and one.p > 0 for one in layer.modules())
        self.before = vars(layer).get("forward")  # of another one that stands in for the class's own
        setattr(layer, "forward", self)  # noqa: B010  (mypy: a method is assigned to)

    def undo(self) -> None:
        """Give the layer its own forward pass back."""
        if self.before is None:
            del self.layer.forward
        else:
            setattr(self.layer, "forward", self.before)  # noqa: B010  (as above)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the layer's output, of the shape of its input."""
        one_tile = hidden.shape[:-1].numel() <= self.tokens
        if not torch.is_grad_enabled() or (one_tile and not self.always):
            return self.own(hidden)
        kept = _Kept.apply(hidden, self, *self.weights)  # type: ignore[no-untyped-call]
        output: torch.Tensor = _Output.apply(kept, self)  # type: ignore[no-untyped-call]
        return output

    def parts(self, hidden: torch.Tensor) -> Iterator[slice]:
        """Yield the tiles of an input as it is in one row, [1, tokens, size]."""
        tokens = hidden.shape[1]
        return (slice(start, min(start + self.tokens, tokens)) for start in range(0, tokens, self.tokens))


class _Kept(torch.autograd.Function):
    """Keeps the layer's input; backwards, runs the layer again on it, and goes back through it, tile by tile."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, tiled: Tiled, *weights: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(hidden)
        ctx.tiled, ctx.again = tiled, as_now(hidden)
        ctx.draws = _RandomState(hidden) if tiled.draws else nullcontext()
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (hidden,) = ctx.saved_tensors
        tiled, weights = ctx.tiled, ctx.tiled.weights
        given, above = _one_row(hidden), _one_row(gradients[0])
        below = torch.empty_like(given)
        sums: list[torch.Tensor | None] = [None] * len(weights)
        with ctx.draws, ctx.again(), tiled.around(hidden):
            for part in tiled.parts(given):
                tile = given[:, part].detach().requires_grad_()
                with torch.enable_grad():
                    output = tiled.own(tile)
                below[:, part], *found = torch.autograd.grad(
                    output, (tile, *weights), above[:, part].to(output.dtype), allow_unused=True
                )
                for number, one in enumerate(found):
                    if one is not None:
                        held = sums[number]
                        sums[number] = one if held is None else held.add_(one)
        return below.view(hidden.shape), None, *sums


class _Output(torch.autograd.Function):
    """Computes the layer's output; backwards, hands the gradient of it to `_Kept`."""

    @staticmethod
    def forward(ctx: Any, kept: torch.Tensor, tiled: Tiled) -> torch.Tensor:
        given = _one_row(kept)
        output: torch.Tensor | None = None
        with tiled.around(kept):
            for part in tiled.parts(given):
                made = tiled.own(given[:, part])
                if output is None:
                    output = made.new_empty(given.shape)
                output[:, part] = made
        assert output is not None
        return output.view(kept.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return gradients[0], None


def _one_row(hidden: torch.Tensor) -> torch.Tensor:
    return hidden.reshape(1, -1, hidden.shape[-1])


def as_now(hidden: torch.Tensor) -> Callable[[], AbstractContextManager[Any]]:
    """Return what brings back the present state of autocast, which is off in a backward pass."""
    kind = hidden.device.type
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return lambda: torch.autocast(kind, dtype=dtype, enabled=enabled)


class _RandomState:
    """The state of the random numbers when this was made; inside, they are drawn from it once more."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.main = torch.get_rng_state()
        self.devices, self.states = get_device_states(hidden)
        self.entered = ExitStack()

    def __enter__(self) -> None:
        self.entered.enter_context(torch.random.fork_rng(devices=self.devices))
        torch.set_rng_state(self.main)
        set_device_states(self.devices, self.states)

    def __exit__(self, *raised: Any) -> None:
        self.entered.close()
