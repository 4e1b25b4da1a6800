"""`peftkit chat`: a conversation on the terminal with adapters of one base model, and with the base itself."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.errors import ConfigError, DataError
from peftkit.side_by_side import BASE
from peftkit.ui import UI

if TYPE_CHECKING:
    from peft import PeftModel

    from peftkit.serve.asking import Asking

HELP = """\
/adapter NAME  go on with another adapter, or with base; without a name it lists them
/reset         begin anew
/quit          end (so does Ctrl-D)
Ctrl-C stops an answer."""


class Chat:
    """A conversation, and who answers next.

    Args:
        model: The base model with its adapters.
        models: How each adapter is asked, by name, and the base model as `base`.
        current: Who answers first.
        system: What is said to the model at the start; None leaves that to the adapter's recipe.
        max_new_tokens: Longest answer; None takes what is usual (`Asking.usual_tokens`).
        temperature: 0 takes the likeliest token each time.
        ui: Where answers are written as they come.
    """

    def __init__(
        self,
        model: PeftModel,
        models: Mapping[str, Asking],
        current: str,
        *,
        system: str | None = None,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        ui: UI,
    ) -> None:
        self._model = model
        self._models = models
        self._system = system
        self._max_new_tokens = max_new_tokens
        self._temperature = temperature
        self._ui = ui
        self._commands: dict[str, Callable[[str], None]] = {
            "/adapter": self._change,
            "/reset": self._reset,
            "/help": lambda rest: ui.aside(HELP),
        }
        self.messages: list[dict[str, Any]] = []
        self.name = current
        self._say_how()

    def hear(self, line: str) -> bool:
        """Do what a line says: a command, or a message to answer. Return whether the chat goes on."""
        line = line.strip()
        if not line.startswith("/"):
            if line:
                self._answer(line)
            return True
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return False
        if command in self._commands:
            self._commands[command](rest.strip())
        else:
            self._ui.aside(f"there is no command {command}; /help lists them")
        return True

    def _answer(self, text: str) -> None:
        asked = {"role": "user", "content": text}
        apart = self._asks_apart()
        said: list[str] = []

        def show(piece: str) -> None:
            said.append(piece)
            self._ui.piece(piece)

        try:
            self._write([asked] if apart else [*self._opening(), *self.messages, asked], apart, show)
        except DataError as error:
            self._ui.warn(f"{error}; the message was left out")
        except KeyboardInterrupt:
            self._ui.aside(" (stopped)")
        else:
            self._ui.piece("\n")
        answer = "".join(said)
        if answer.strip() and not apart:  # templates want question and answer in turn: no question without an answer
            self.messages += [asked, {"role": "assistant", "content": answer}]

    def _write(self, messages: Sequence[Mapping[str, Any]], apart: bool, show: Callable[[str], None]) -> None:
        from peftkit.serve.writing import Sampling, Writer

        asking = self._models[self.name]
        ids, end_ids = asking.conversation(messages)
        room = asking.limit - len(ids)
        if room < 1:
            raise DataError(
                f"the conversation fills the {asking.limit} tokens that the model reads; begin anew with /reset"
            )
        sampling = Sampling(
            min(self._max_new_tokens or asking.usual_tokens(in_wording=apart), room), temperature=self._temperature
        )
        write_one(self._model, asking, ids, Writer(asking.tokenizer, end_ids, sampling), show)

    def _asks_apart(self) -> bool:
        """Whether a message is asked in the recipe's wording: it then belongs to no conversation."""
        return self._models[self.name].has_wording and self._system is None

    def _opening(self) -> list[dict[str, Any]]:
        return [] if self._system is None else [{"role": "system", "content": self._system}]

    def _change(self, name: str) -> None:
        if name not in self._models:
            there = f"there is no adapter '{name}'; " if name else ""
            self._ui.aside(f"{there}there are: {', '.join(self._models)}; {self.name} answers now")
            return
        self.name = name
        self._say_how()

    def _reset(self, rest: str) -> None:
        self.messages.clear()
        self._ui.aside("the conversation begins anew")

    def _say_how(self) -> None:
        how = (
            "asks each message in its recipe's wording, as predict does, and apart from the others; "
            "with --system it chats plainly"
            if self._asks_apart()
            else "answers the whole conversation"
        )
        self._ui.aside(f"{self.name} {how}")


def chat(
    adapters: Mapping[str, Path],
    *,
    system: str | None = None,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    base: bool = False,
    ui: UI | None = None,
) -> None:
    """Chat on standard input and output until it ends; without a terminal, each line is one turn.

    Args:
        adapters: The folder of each adapter, or of its run, by name; the first answers first.
        system: What is said to the model at the start.
        max_new_tokens: Longest answer, in tokens.
        temperature: 0 takes the likeliest token each time.
        base: Begin with the base model.
        ui: Where answers are written.

    Raises:
        PeftkitError: An adapter or the base model is not usable, or writes no text.
    """
    from peftkit.adapter.trained import open_adapters
    from peftkit.serve.asking import asking_base, asking_of

    ui = ui or UI()
    if system is not None and not system.strip():
        raise ConfigError("--system is empty; leave it out, or say something")
    trained = open_adapters(list(adapters.values()), ui.aside)
    models = {name: asking_of(name, one) for name, one in zip(adapters, trained, strict=True)}
    models[BASE] = asking_base(BASE, trained[0])
    one = Chat(
        trained[0].model,
        models,
        BASE if base else next(iter(adapters)),
        system=system,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        ui=ui,
    )
    for line in _lines(one, ui):
        if not one.hear(line):
            return


def write_one(model: PeftModel, asking: Asking, ids: list[int], writer: Any, show: Callable[[str], None]) -> None:
    """Generate one answer, and show its text as it comes."""
    import torch

    from peftkit.adapter.trained import worn
    from peftkit.serve.rows import Job, Rows

    rows = Rows(model, padding=int(asking.tokenizer.pad_token_id))
    with torch.inference_mode(), worn(model, asking.key):
        rows.join([Job(ids, asking.key, writer, lambda piece: show(piece.text))])
        while rows.jobs:
            rows.step()


def _lines(one: Chat, ui: UI) -> Iterator[str]:
    """Give the lines of standard input; on a terminal after a prompt, and Ctrl-C there ends nothing."""
    if not sys.stdin.isatty():
        try:
            yield from sys.stdin
        except UnicodeDecodeError as error:
            raise DataError(f"standard input is not {error.encoding} text; save it in this encoding") from error
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # gives input() its line editing and history

    ui.aside("/help lists the commands")
    while True:
        try:
            yield input(f"{one.name}> ")
        except KeyboardInterrupt:
            ui.aside("\n/quit or Ctrl-D ends the chat")
        except EOFError:
            ui.aside("")
            return
