"""Counts live tensor storages while torch works: on real tensors, or on the meta device, where they take no memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from peftkit.plan.work import Work, tensors_in

Run = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
Hidden = Callable[[Any, tuple[Any, ...], Any], int]


@dataclass
class Block:
    """One storage.

    Attributes:
        size: Its bytes.
        born: Number of the operation that made it; 0 for what was there before.
        died: Number of the first operation that ran without it; None while it lives.
        kind: What it is, as far as that is known, such as `adapter` or `optimizer`; empty for what operations made.
        phase: Name of the phase in which it was made.
    """

    size: int
    born: int
    died: int | None = None
    kind: str = ""
    phase: str = ""


@dataclass(frozen=True)
class Top:
    """The most that was alive at once, in one phase.

    Attributes:
        bytes: How much, with what an operation held inside itself.
        at: Number of the operation at which it occurred.
        operation: Name of that operation.
        place: Path of the layer in which it ran; empty outside of layers.
    """

    bytes: int
    at: int = 0
    operation: str = ""
    place: str = ""


@dataclass
class Trace:
    """What happened to memory, operation by operation.

    Attributes:
        blocks: Every storage that there was.
        marks: First operation of each phase, in order.
        tops: The most that was alive at once in each phase.
        events: Allocations (number of the block) and releases (minus that number, less one), in order.
    """

    blocks: list[Block]
    marks: list[tuple[int, str]] = field(default_factory=list)
    tops: dict[str, Top] = field(default_factory=dict)
    events: list[int] = field(default_factory=list)

    def top(self, *phases: str) -> tuple[str, Top]:
        """Return the phase with the most alive at once, and that; of the given phases, or of all."""
        name = max(phases or self.tops, key=lambda one: self.tops[one].bytes)
        return name, self.tops[name]

    @property
    def peak(self) -> int:
        """The most bytes alive at once."""
        return self.top()[1].bytes

    def alive(self, at: int) -> Iterator[Block]:
        """Yield what was alive when an operation had run."""
        return (one for one in self.blocks if one.born <= at and (one.died is None or one.died > at))

    def by_kind(self, at: int) -> dict[str, int]:
        """Return bytes by kind when an operation had run."""
        found: dict[str, int] = {}
        for one in self.alive(at):
            found[one.kind] = found.get(one.kind, 0) + one.size
        return found


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps count of every storage that is made and given back while it is active.

    Args:
        device: Type of the device whose storages count; others, such as counters of optimizers in main memory, do not.
        run: Carries out an operation; by default torch itself.
        hidden: Bytes that an operation holds inside itself, unseen here, given the operation, its arguments and result.
        work: Where the arithmetic of each operation is added up.
    """

    def __init__(
        self, device: str, run: Run | None = None, hidden: Hidden | None = None, work: Work | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = Trace([])
        self._device = device
        self._run = run or _run
        self._hidden = hidden
        self._work = work
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._clock = 0
        self._running = False
        self._live = 0
        self._phase = ""
        self.place = ""  # path of the module that runs

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and take note of the storages of its results."""
        self._clock += 1
        self._running = True
        named = dict(kwargs or {})
        result = self._run(func, args, named)
        self._running = False
        if self._work is not None:
            self._work.add(self._phase, func, args, named, result)
        for one in tensors_in(result):
            self._note(one, "")
        inside = self._hidden(func, args, result) if self._hidden else 0
        if inside:  # held during the operation alone
            self.trace.events += [len(self.trace.blocks), -len(self.trace.blocks) - 1]
            self.trace.blocks.append(Block(inside, self._clock, self._clock + 1, "", self._phase))
        self._look(self._live + inside, func)
        return result

    def _look(self, now: int, func: Any) -> None:
        """See whether this is the most that there was in this phase."""
        held = self.trace.tops.get(self._phase)
        if held is None or now > held.bytes:
            name = str(func.name()).removeprefix("aten::")
            self.trace.tops[self._phase] = Top(now, self._clock, name, self.place)

    def adopt(self, tensors: Iterable[torch.Tensor], kind: str) -> None:
        """Count tensors that are there already, or say of what is known what it is; views count with what they show."""
        for one in tensors:
            if (found := self._known.get(one.untyped_storage()._cdata)) is not None:
                self.trace.blocks[found[1]].kind = kind
            else:
                self._note(one, kind, born=0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Name what happens inside."""
        before = self._phase
        self.start(name)
        try:
            yield
        finally:
            self.start(before)

    def start(self, name: str) -> None:
        """Name what happens from here on."""
        if name != self._phase:
            self._phase = name
            self.trace.marks.append((self._clock + 1, name))
            held = self.trace.tops.get(name)
            if held is None or held.bytes < self._live:
                self.trace.tops[name] = Top(self._live, self._clock)

    def _note(self, tensor: torch.Tensor, kind: str, born: int | None = None) -> None:
        if tensor.device.type != self._device:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        place = len(self.trace.blocks)
        self.trace.blocks.append(Block(size, self._clock if born is None else born, None, kind, self._phase))
        self.trace.events.append(place)
        self._live += size
        self._known[key] = (weakref.ref(storage, lambda _: self._gone(key)), place)

    def _gone(self, key: int) -> None:
        _, place = self._known.pop(key)
        block = self.trace.blocks[place]
        block.died = self._clock if self._running else self._clock + 1
        self.trace.events.append(-place - 1)
        self._live -= block.size


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)
