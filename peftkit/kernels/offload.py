"""Checkpoints in main memory: copied there behind the forward pass, and back ahead of the backward pass.

Both copies run on a stream of their own, and the streams wait for each other through events: no step waits for the
processor. A hidden state leaves the card when its copy is finished and `IN_FLIGHT` later ones are on their way; going
back, the one that is wanted next is fetched while its successor's layer is computed.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

IN_FLIGHT = 1
"""Copies to main memory that may be unfinished while the next one begins: each keeps one hidden state on the card."""

LEAST = 1 << 20
"""Bytes of a tensor that is worth a copy."""


class Offload:
    """Hands the inputs of checkpointed layers to main memory.

    Args:
        meant: Kind of device that the tensors are on, or that meta tensors stand for. On a processor they are in main
            memory already, and nothing is done.
        least: Bytes of the smallest tensor that is copied.
    """

    def __init__(self, meant: str, least: int = LEAST) -> None:
        self.meant, self.least = meant, least
        self.leaving: deque[_Held] = deque()
        self.last: weakref.ref[_Held] | None = None
        self.bytes = self.most = 0  # in main memory: now, and at most
        self._stream: Any = None

    def around(self, checkpoint: Callable[..., Any]) -> Callable[..., Any]:
        """Return a checkpoint function that keeps its inputs in main memory."""

        def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            with saved_tensors_hooks(self._pack, self._unpack):
                return checkpoint(function, *args, **kwargs)

        return run

    def _pack(self, tensor: torch.Tensor) -> Any:
        moves = tensor.is_floating_point() and tensor.numel() * tensor.itemsize >= self.least
        if self.meant == "cpu" or not moves:
            return tensor
        held = _Held(tensor, self, self.last)
        self.last = weakref.ref(held)
        self.leaving.append(held)
        while len(self.leaving) > IN_FLIGHT:
            self.leaving.popleft().leave()
        return held

    def _unpack(self, held: Any) -> torch.Tensor:
        if isinstance(held, torch.Tensor):
            return held
        assert isinstance(held, _Held)
        tensor = held.take()
        if (before := held.before()) is not None:
            before.fetch()
        return tensor

    def stream(self) -> Any:
        """Return the stream that the copies run on; None where there are no streams."""
        if self._stream is None and self.meant == "cuda" and torch.cuda.is_available():
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        return self._stream


class _Held:
    """One tensor: on the card, on its way, or in main memory.

    Args:
        tensor: On the card.
        offload: Has the stream of the copies.
        before: The one that was kept before it, and so is wanted after it.
    """

    def __init__(self, tensor: torch.Tensor, offload: Offload, before: weakref.ref[_Held] | None) -> None:
        self.offload = offload
        self._before = before
        self.size = tensor.numel() * tensor.itemsize
        self.shape, self.dtype, self.device = tensor.shape, tensor.dtype, tensor.device
        self.card: torch.Tensor | None = tensor.detach()
        self.done: Any = None
        self.main = self._copy_out(tensor.detach())
        offload.bytes += self.size
        offload.most = max(offload.most, offload.bytes)

    def __del__(self) -> None:
        self.leave()  # a pass that is given up may have begun to fetch it
        self.offload.bytes -= self.size

    def before(self) -> _Held | None:
        """Return the one that is wanted after this; None where it is gone, or there is none."""
        return None if self._before is None else self._before()

    def leave(self) -> None:
        """Give the memory on the card back, once the copy is made: what is computed from now on waits for that."""
        if self.card is not None and self.done is not None:
            torch.cuda.current_stream(self.device).wait_event(self.done)
        self.card = self.done = None

    def fetch(self) -> None:
        """Begin to copy it back; nothing where it is on the card."""
        if self.card is not None:
            return
        self.card = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        if self.device.type == "meta":
            return  # it has no values
        stream = self.offload.stream()
        if stream is None:
            self.card.copy_(self._main())
            return
        # Until here the memory may still be read for what it held before.
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            self.card.copy_(self._main(), non_blocking=True)
            self.done = stream.record_event()

    def _main(self) -> torch.Tensor:
        assert self.main is not None, "a checkpoint is read once: its memory is given back then"
        return self.main

    def take(self) -> torch.Tensor:
        """Return it on the card, and keep it here no longer."""
        self.fetch()
        tensor = self.card
        assert tensor is not None
        if self in self.offload.leaving:  # it never left; its copy out may still read it
            self.offload.leaving.remove(self)
        self.leave()
        self.main = None
        return tensor

    def _copy_out(self, tensor: torch.Tensor) -> torch.Tensor | None:
        if tensor.is_meta:
            return None
        stream = self.offload.stream()
        if stream is None:
            return tensor.to("cpu", copy=True)
        main = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(stream):
            main.copy_(tensor, non_blocking=True)
            self.done = stream.record_event()
        return main
