"""Store an adapter in half the bytes, and show that it answers as before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.share.base import base_here, named_base
from peftkit.ui import UI

if TYPE_CHECKING:
    import torch

MOST_KL = 1e-5
"""Largest mean divergence of a packed adapter's answers from those before, in nats a token."""
DTYPES = ("bf16", "float32")
_TEXTS = 32
_WIDE = ("float32", "float64")


@dataclass(frozen=True)
class Agreement:
    """How near the answers of a rounded adapter come to those before.

    Attributes:
        kl: Mean divergence in nats; None for scores.
        difference: Of scores the largest difference in standard units; None otherwise.
        positions: How many distributions, or scores, were compared.
        texts: What they were asked about.
    """

    kl: float | None
    difference: float | None
    positions: int
    texts: str


def rounded(state: Mapping[str, torch.Tensor], dtype: str) -> dict[str, torch.Tensor]:
    """Return tensors with floats of more than 16 bits as bfloat16; for `float32` all of them as they are.

    Args:
        state: Tensors by name.
        dtype: One of `DTYPES`.
    """
    import torch

    wide = [getattr(torch, name) for name in _WIDE] if dtype == "bf16" else []
    return {name: one.to(torch.bfloat16) if one.dtype in wide else one for name, one in state.items()}


def relative_change(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> float:
    """Return |after - before| / |before| in the Euclidean norm over all tensors, computed in float64."""
    change = math.fsum(float((after[name].double() - one.double()).square().sum()) for name, one in before.items())
    size = math.fsum(float(one.double().square().sum()) for one in before.values())
    return math.sqrt(change / size) if size else 0.0


def answers_before_and_after(
    folder: Path, state: Mapping[str, torch.Tensor], base: str | None, ui: UI
) -> Agreement | str:
    """Ask base and adapter with the stored values, and then with others in their place.

    Args:
        folder: The adapter's folder.
        state: The other values.
        base: The base model, if not the one that the adapter names.
        ui: Where progress is shown.

    Returns:
        How far they agree on held-out rows of the run, or on other texts; a sentence where the base is not on this
        machine, which is not fetched for this.

    Raises:
        AdapterError: The adapter does not fit the base, or belongs to another one than `base`.
    """
    from peft import set_peft_model_state_dict

    from peftkit import machine
    from peftkit.merge.agreement import agreement, outputs_of
    from peftkit.merge.given import Weighted
    from peftkit.merge.held_out import find_held_out
    from peftkit.merge.inputs import open_inputs
    from peftkit.merge.models import live_model

    machine.quiet_libraries()
    if base is None and base_here(named_base(folder)) is None:
        return "the base model is not on this machine"
    inputs = open_inputs([Weighted(folder)], base, force=base is None, progress=ui.note)
    if inputs.forced:
        return "the base model of that name on this machine is another one"
    held_out = find_held_out(inputs, ui)
    examples = [*held_out.of["test"], *held_out.of["validation"]][:_TEXTS]
    model: Any = live_model(inputs, trained=True)
    problem = getattr(model.config, "problem_type", None)
    with ui.progress("texts asked, before and after", 2) as bar:
        before = outputs_of(model, inputs.family, examples, problem=problem)
        bar.to(1, "")
        set_peft_model_state_dict(model, dict(state))
        after = outputs_of(model, inputs.family, examples, problem=problem)
        bar.to(2, "")
    found = agreement(before, after)
    return Agreement(found["kl"], found.get("difference"), found["positions"], held_out.what)
