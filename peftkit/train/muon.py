"""Muon for the matrices, and AdamW for all else, as one optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


class MuonWithAdamW(torch.optim.Optimizer):
    """Steps torch's Muon on parameters of two dimensions and AdamW on the others.

    Muon (https://kellerjordan.github.io/posts/muon) makes the update of each matrix nearly orthogonal. Its size is
    matched to AdamW's (arXiv 2502.16982, section 2.2), so that both take one learning rate.

    Args:
        groups: Parameter groups, each with `params` and `weight_decay`.
        lr: Learning rate.
        momentum: Of Muon.
        nesterov: Whether Muon looks ahead along its momentum.
        ns_steps: Newton-Schulz iterations of Muon.
        betas: Of AdamW.
        eps: Of AdamW.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        given = list(groups)
        matrices = [{**one, "params": [value for value in one["params"] if value.ndim == 2]} for one in given]
        others = [{**one, "params": [value for value in one["params"] if value.ndim != 2]} for one in given]
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                matrices,
                lr=lr,
                momentum=momentum,
                nesterov=nesterov,
                ns_steps=int(ns_steps),
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(others, lr=lr, betas=betas, eps=eps),
        ]
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let both parts work on this optimizer's groups, which schedules change, and on its state, which is saved."""
        half = len(self.param_groups) // 2
        for part, groups in zip(self._parts, (self.param_groups[:half], self.param_groups[half:]), strict=True):
            part.param_groups, part.state = groups, self.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient; there is no use for a closure."""
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over groups and state, which torch replaces by new objects."""
        super().load_state_dict(state_dict)
        self._share()
