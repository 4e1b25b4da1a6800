"""A causal language model that reads and writes step by step, remembering what it has read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_KEYS_AND_VALUES = ("PREFIX_TUNING", "CARTRIDGE")  # methods whose trained prompt is a cache, and not embeddings


class Stepper:
    """Feeds tokens to a model that remembers what it has read, and returns the logits after the last of them.

    Args:
        model: A causal language model in evaluation mode, with or without an adapter.
        cache: What was read before, as the model returned it.
        mask: Which places of it hold tokens, [rows, tokens]; rows are padded on the left.
    """

    def __init__(self, model: Any, cache: Any = None, mask: torch.Tensor | None = None) -> None:
        self._model = model
        self._cache = cache
        self._mask = mask

    @classmethod
    def read(cls, model: Any, prompts: Sequence[Sequence[int]], padding: int) -> tuple[Stepper, torch.Tensor]:
        """Read prompts, padded on the left.

        A trained prompt of virtual tokens (prompt tuning and its kin) is read first, once, and with no padding between
        it and the text. PEFT's own forward pass would read it again at each step.

        Args:
            model: As for the class.
            prompts: Token ids of each, at least one.
            padding: Id of the token to pad with.

        Returns:
            The stepper, and the logits after each prompt, [rows, vocabulary] in float32.
        """
        import torch

        device, longest = model.device, max(map(len, prompts))
        blank = [longest - len(prompt) for prompt in prompts]
        ids = torch.tensor([[padding] * n + list(one) for n, one in zip(blank, prompts, strict=True)], device=device)
        mask = torch.tensor([[0] * n + [1] * (longest - n) for n in blank], device=device)
        virtual = _virtual_tokens(model)
        if not virtual:
            stepper = cls(model)
            return stepper, stepper._feed(mask, input_ids=ids)
        before = torch.ones(len(prompts), virtual, dtype=mask.dtype, device=device)
        if model.active_peft_config.peft_type in _KEYS_AND_VALUES:
            stepper = cls(model.base_model, model.get_prompt(len(prompts), max_cache_len=virtual + longest), before)
            return stepper, stepper._feed(mask, input_ids=ids)
        trained = model.get_prompt(len(prompts))  # [rows, virtual, hidden]
        embedded = model.word_embeddings(ids)
        rows = [
            torch.cat([row[:n], first.to(row.dtype), row[n:]])
            for n, row, first in zip(blank, embedded, trained, strict=True)
        ]
        shown = [torch.cat([row[:n], first, row[n:]]) for n, row, first in zip(blank, mask, before, strict=True)]
        stepper = cls(model.base_model)
        return stepper, stepper._feed(torch.stack(shown), inputs_embeds=torch.stack(rows))

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Read one more piece of each row, [rows, new tokens]; return the logits after it, [rows, vocabulary]."""
        import torch

        return self._feed(torch.ones_like(ids), input_ids=ids)

    def fork(self) -> Stepper:
        """Return a copy that can read on without changing this one."""
        return Stepper(self._model, copy.deepcopy(self._cache), self._mask)

    def _feed(self, mask: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        import torch

        seen = 0 if self._mask is None else self._mask.shape[1]
        self._mask = mask if self._mask is None else torch.cat([self._mask, mask], dim=1)
        positions = (self._mask.cumsum(1) - 1).clamp(min=0)[:, seen:]
        output = self._model(
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            **inputs,
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

        assert self._mask is not None
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

        assert self._mask is not None
        assert other._mask is not None
        length = max(self._mask.shape[1], other._mask.shape[1])
        here, there = length - self._mask.shape[1], length - other._mask.shape[1]
        self._mask = torch.cat([pad(self._mask, (here, 0)), pad(other._mask, (there, 0))])
        for mine, theirs in zip(self._cache.layers, other._cache.layers, strict=True):
            mine.keys = torch.cat([pad(mine.keys, (0, 0, here, 0)), pad(theirs.keys, (0, 0, there, 0))])
            mine.values = torch.cat([pad(mine.values, (0, 0, here, 0)), pad(theirs.values, (0, 0, there, 0))])


def _virtual_tokens(model: Any) -> int:
    """Return how many virtual tokens an adapter puts before every text; 0 for methods that change the layers."""
    from peft import PeftModel

    if not isinstance(model, PeftModel) or model._adapters_disabled:
        return 0
    config = model.active_peft_config
    return int(config.num_virtual_tokens) if config.is_prompt_learning else 0
