"""A causal language model that reads and writes step by step, remembering what it has read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Stepper:
    """Feeds tokens to a model that remembers what it has read, and returns the logits after the last of them.

    Args:
        model: A causal language model in evaluation mode, with or without an adapter.
        mask: Which places hold tokens, [rows, tokens]; rows are padded on the left.
        cache: What was read before, as the model returned it.
    """

    def __init__(self, model: Any, mask: torch.Tensor, cache: Any = None) -> None:
        self._model = model
        self._mask = mask  # [rows, tokens read so far]
        self._cache = cache

    @classmethod
    def read(cls, model: Any, prompts: Sequence[Sequence[int]], padding: int) -> tuple[Stepper, torch.Tensor]:
        """Read prompts, padded on the left.

        Args:
            model: As for the class.
            prompts: Token ids of each, at least one.
            padding: Id of the token to pad with.

        Returns:
            The stepper, and the logits after each prompt, [rows, vocabulary] in float32.
        """
        import torch

        device = model.device
        longest = max(map(len, prompts))
        ids = torch.tensor([[padding] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
        stepper = cls(model, mask)
        return stepper, stepper(ids)

    def __len__(self) -> int:
        return len(self._mask)

    def fork(self) -> Stepper:
        """Return a copy that can read on without changing this one."""
        return Stepper(self._model, self._mask, copy.deepcopy(self._cache))

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Read one more piece of each row, [rows, new tokens]; return the logits after it, [rows, vocabulary]."""
        import torch

        seen = self._mask.shape[1] if self._cache is not None else 0
        if seen:
            self._mask = torch.cat([self._mask, torch.ones_like(ids)], dim=1)
        positions = (self._mask.cumsum(1) - 1).clamp(min=0)[:, seen:]
        output = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = output.past_key_values
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    @property
    def grows(self) -> bool:
        """Whether rows can be added: every layer remembers keys and values of all tokens, and nothing else."""
        from transformers.cache_utils import DynamicLayer

        layers = getattr(self._cache, "layers", ())
        return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these, and the padding that none of them needs."""
        import torch

        self._mask = self._mask[list(rows)]
        self._cache.reorder_cache(torch.tensor(list(rows), device=self._mask.device))
        unused = int(self._mask.argmax(1).min())
        if unused and self.grows:
            self._mask = self._mask[:, unused:]
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[:, :, unused:], layer.values[:, :, unused:]

    def add(self, other: Stepper) -> None:
        """Take in the rows of another stepper of the same model, behind those that are here; both must be `grows`."""
        import torch
        from torch.nn.functional import pad

        length = max(self._mask.shape[1], other._mask.shape[1])
        here, there = length - self._mask.shape[1], length - other._mask.shape[1]
        self._mask = torch.cat([pad(self._mask, (here, 0)), pad(other._mask, (there, 0))])
        for mine, theirs in zip(self._cache.layers, other._cache.layers, strict=True):
            mine.keys = torch.cat([pad(mine.keys, (0, 0, here, 0)), pad(theirs.keys, (0, 0, there, 0))])
            mine.values = torch.cat([pad(mine.values, (0, 0, here, 0)), pad(theirs.values, (0, 0, there, 0))])
