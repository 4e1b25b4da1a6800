"""Everything that a person sees on the screen; the only module that imports rich."""

from __future__ import annotations

import json
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_PLAIN_INTERVAL = 15.0  # seconds between progress lines where there is no terminal
_PLAIN_WIDTH = 160
_LONGEST = 2000  # characters of a message
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line end


class UI:
    """Speaks to a person, or stays silent.

    Args:
        quiet: Say nothing but warnings.
        as_json: Keep standard output for one JSON value; nothing else is said there.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet or as_json
        self._out = _console(stderr=False)
        self._err = _console(stderr=True)

    @property
    def width(self) -> int:
        """Characters that fit on a line of standard output."""
        return self._out.width

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads standard output."""
        return self._out.is_terminal

    def piece(self, text: str) -> None:
        """Write a piece of a text at once, and end no line."""
        self._out.print(Text(_shown(text)), end="", soft_wrap=True)

    def aside(self, text: str) -> None:
        """Say a line that is no part of the output, on the error stream."""
        if not self.quiet:
            _print(self._err, Text(_shown(text), style="dim"))

    def stage(self, title: str) -> None:
        """Name the stage that begins."""
        if not self.quiet:
            _print(self._out, Text(f"\n{title}", style="bold cyan"))

    def say(self, text: str, *, style: str = "") -> None:
        """Say one line."""
        if not self.quiet:
            _print(self._out, Text(_shown(text), style=style))

    def note(self, text: str) -> None:
        """Say one line of lesser weight."""
        self.say(text, style="dim")

    def warn(self, text: str) -> None:
        """Say a line that must be seen even by those who asked for quiet."""
        _print(self._err, Text(f"warning: {_shown(_masked(text))}", style="yellow"))

    def error(self, text: str) -> None:
        """Say why the command ends."""
        _print(self._err, Text.assemble(("error: ", "bold red"), _shown(_cut(_masked(text)))))

    def traceback(self, error: BaseException) -> None:
        """Write where an error came from, for those who mend it."""
        self._err.print(Text(_masked("".join(traceback.format_exception(error)))), end="", soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
        """Show a table; columns whose name starts with `>` are set to the right."""
        if self.quiet:
            return
        table = Table(
            title=title or None, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False
        )
        for name in columns:
            table.add_column(
                name.removeprefix(">"), justify="right" if name.startswith(">") else "left", overflow="fold"
            )
        for row in rows:
            table.add_row(*[Text(_shown(str(cell))) for cell in row])
        self._out.print(table)

    def example(self, tokens: Sequence[Mapping[str, Any]]) -> None:
        """Show one encoded row; trained tokens stand out by colour, and by brackets where there is no colour."""
        if self.quiet:
            return
        text = Text()
        colour = self._out.color_system is not None
        inside = False
        for token in tokens:
            if not colour and token["trained"] != inside:
                inside = not inside
                text.append("[[" if inside else "]]")
            text.append(_shown(str(token["text"])), style="bold black on green" if token["trained"] else "dim")
        if inside:
            text.append("]]")
        _print(self._out, text)

    def lines(self, text: str) -> None:
        """Write text as it is, to be read by a person or a file."""
        self._out.print(Text(text), soft_wrap=True)

    def json(self, value: Any) -> None:
        """Write one JSON value to standard output."""
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Bar]:
        """Show how far something of `total` parts has come."""
        if self.quiet:
            yield Bar()
        elif self._out.is_terminal:
            columns = (
                TextColumn("  {task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
            )
            with Progress(*columns, console=self._out) as progress:
                yield _RichBar(progress, progress.add_task(what, total=total, detail=""))
        else:
            yield _PlainBar(self._out, what, total)


class Bar:
    """A progress bar that shows nothing."""

    def to(self, done: int, detail: str = "", total: int | None = None) -> None:
        """Say how many parts are done."""


class _RichBar(Bar):
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def to(self, done: int, detail: str = "", total: int | None = None) -> None:
        self._progress.update(self._task, completed=done, detail=detail, total=total)


class _PlainBar(Bar):
    """Lines at intervals, for logs."""

    def __init__(self, console: Console, what: str, total: int) -> None:
        self._console = console
        self._what = what
        self._total = total
        self._started = self._last = time.monotonic()

    def to(self, done: int, detail: str = "", total: int | None = None) -> None:
        self._total = total or self._total
        now = time.monotonic()
        if now - self._last < _PLAIN_INTERVAL and done < self._total:
            return
        self._last = now
        elapsed = now - self._started
        left = elapsed / done * (self._total - done) if done else 0.0
        text = f"  {self._what} {done}/{self._total}  {detail}  {_clock(elapsed)} gone, about {_clock(left)} left"
        self._console.print(Text(text))


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, emoji=False, markup=False)
    return (
        console
        if console.is_terminal
        else Console(stderr=stderr, highlight=False, emoji=False, markup=False, width=_PLAIN_WIDTH)
    )


def _shown(text: str) -> str:
    """Write control characters as escapes: a row of someone's data must not command the terminal."""
    return _CONTROLS.sub(lambda match: repr(match[0])[1:-1], text)


def _cut(text: str) -> str:
    """Leave out the middle of a message that repeats something endless from a file or a command line."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


def _masked(text: str) -> str:
    """Take tokens and passwords out of what is said when something went wrong: it is pasted where others read it."""
    from peftkit.tokens import masked

    return masked(text)


def _print(console: Console, text: Text) -> None:
    """Wrap at words on a terminal; elsewhere a line stays a line, so that a program can read a path from it."""
    console.print(text, soft_wrap=not console.is_terminal)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def size(count: float) -> str:
    """Write a number of bytes as people do: 19.6 MB (decimal units)."""
    for unit in ("bytes", "kB", "MB"):
        if count < (1000 if unit == "bytes" else 999.95):  # 999.96 kB is 1.0 MB
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def duration(seconds: float) -> str:
    """Write seconds as people do: 3 min 20 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def percent(value: float) -> str:
    """Write a share as a percentage with one decimal."""
    return f"{100 * value:.1f}%"
