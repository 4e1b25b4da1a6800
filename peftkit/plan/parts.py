"""Tells a ledger where a step is: in which phase, and in which layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from peftkit.plan.ledger import Ledger

FORWARD, HEAD, BACKWARD, OPTIMIZER, EVALUATION = "forward pass", "loss head", "backward pass", "optimizer", "evaluation"


def watch_layers(ledger: Ledger, model: torch.nn.Module) -> None:
    """Let each layer of a model name itself when it runs, forwards and backwards.

    The first and the last layer to run backwards are phases of their own: memory rises or falls steadily between them.
    """
    layers = [(name, one) for name, one in model.named_modules() if isinstance(one, GradientCheckpointingLayer)]
    for number, (name, layer) in enumerate(layers):
        end = {0: ", first layer", len(layers) - 1: ", last layer"}.get(number, "")
        short = name.removeprefix("base_model.model.").removeprefix("model.")
        layer.register_forward_pre_hook(_enter(ledger, short))
        layer.register_forward_hook(_leave(ledger, short, f"{BACKWARD}{end}"))


def _enter(ledger: Ledger, name: str) -> Callable[..., None]:
    def enter(module: torch.nn.Module, inputs: Any) -> None:
        ledger.place = name

    return enter


def _leave(ledger: Ledger, name: str, phase: str) -> Callable[..., None]:
    def back(gradient: torch.Tensor) -> None:
        ledger.start(phase)
        ledger.place = f"{name}, backwards"

    def leave(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        ledger.place = ""
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, torch.Tensor) and first.requires_grad:
            first.register_hook(back)  # type: ignore[no-untyped-call]

    return leave


@contextmanager
def watch_head() -> Iterator[Callable[[Ledger], None]]:
    """Let the fused loss head, TRL's or ours, name itself to the ledger that the given function is called with."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    from peftkit.kernels.loss_head import LabelLogProbs

    watching: list[Ledger] = []
    heads: tuple[Any, ...] = (ChunkedLogProbFunction, LabelLogProbs)
    own = [(head, name, vars(head)[name]) for head in heads for name in ("forward", "backward")]

    def named(function: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            if not watching:
                return function(*args)
            with watching[0].phase(phase):
                return function(*args)

        return run

    for head, name, function in own:
        phase = HEAD if name == "forward" else f"{HEAD}, backwards"
        setattr(head, name, staticmethod(named(function.__func__, phase)))
    try:
        yield watching.append
    finally:
        for head, name, function in own:
            setattr(head, name, function)
