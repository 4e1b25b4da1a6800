"""Which rows each batch of an epoch is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Sampler

from peftkit.data.examples import Example


class RowOrder(Sampler[int]):
    """Draws an epoch's order from another sampler, and remembers it.

    Args:
        sampler: Gives the numbers of rows in their order.
        batch_size: Rows of a batch.
        seed: With the epoch, it decides the order. What dropout draws does not: it draws otherwise for other batches.
    """

    def __init__(self, sampler: Any, batch_size: int, seed: int) -> None:
        self._sampler = sampler
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0
        self._rows: list[int] = []
        self._taken = 0

    @classmethod
    def watch(cls, loader: DataLoader[Any], seed: int) -> RowOrder | None:
        """Stand between a loader's batches and its sampler; None where its batches are made in another way."""
        batches = loader.batch_sampler
        if type(batches) is not BatchSampler:
            return None
        batches.sampler = order = cls(batches.sampler, batches.batch_size, seed)
        return order

    def begin_epoch(self, epoch: int, batches: int) -> None:
        """Start an epoch after so many of its batches.

        A sampler that is seeded by the epoch is told it here: the loader that skips batches does not.
        """
        self._epoch = epoch
        self._taken = batches

    def take(self, batches: int) -> list[list[int]]:
        """Return the rows of the next batches."""
        first = self._taken
        self._taken += batches
        size = self._batch_size
        return [self._rows[place * size : (place + 1) * size] for place in range(first, self._taken)]

    def __iter__(self) -> Iterator[int]:
        if hasattr(self._sampler, "set_epoch"):  # accelerate's; those of torch and transformers have none
            self._sampler.set_epoch(self._epoch)
        if self._epoch == 0:  # nothing was drawn before that batches decide
            self._rows = list(self._sampler)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._seed + self._epoch)
                self._rows = list(self._sampler)
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._sampler)


def places(dataset: Any, rows: Sequence[int], examples: Sequence[Example]) -> list[str]:
    """Return where the rows of a trainer's data set come from; a packed row comes from several.

    They are found by their token ids: trainers drop, pack and shuffle rows.
    """
    known: dict[tuple[int, ...], str] = {}
    for one in examples:
        known.setdefault(tuple(one.prompt_ids + one.completion_ids), one.where)
        known.setdefault(tuple(one.prompt_ids), one.where)
    found = []
    for number in rows:
        row = dataset[number]
        ids = list(row["input_ids"])
        begin = 0
        for length in row.get("seq_lengths") or [len(ids)]:
            found.append(known.get(tuple(ids[begin : begin + length]), f"row {number} of the training data"))
            begin += length
    return found
