"""From logits to text, token by token: the choice of a token, text that grows, and strings that stop it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a part of a character is decoded to

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and when an answer ends.

    Attributes:
        max_tokens: Longest answer, in tokens.
        temperature: What logits are divided by; 0 takes the likeliest token.
        top_p: The smallest set of likeliest tokens with at least this probability is drawn from (arXiv 1904.09751).
        seed: Seed of the draw; None draws anew each time.
        stop: Strings at which an answer ends; they are left out of it.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


class Writer:
    """Writes one answer: takes logits, gives text.

    Args:
        tokenizer: The tokenizer to decode with.
        end_ids: Ids of the tokens that end an answer.
        sampling: How tokens are chosen, and when it ends.

    Attributes:
        tokens: The tokens that were chosen, without the one that ended the answer.
        chosen: How many tokens were chosen, with the one that ended the answer.
        finish: Why it ended; None while it goes on.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_ids: frozenset[int], sampling: Sampling) -> None:
        import torch

        self.tokens: list[int] = []
        self.chosen = 0
        self.finish: Finish | None = None
        self._end_ids = end_ids
        self._sampling = sampling
        self._text = GrowingText(tokenizer)
        self._stops = Stops(sampling.stop)
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def write(self, logits: torch.Tensor) -> tuple[int, str]:
        """Choose a token after these logits, [vocabulary]; return it, and the text that is certain by now."""
        token = choose(logits, self._sampling, self._generator)
        self.chosen += 1
        ended, full = token in self._end_ids, self.chosen >= self._sampling.max_tokens
        if not ended:
            self.tokens.append(token)
        text, stopped = self._stops.pass_on("" if ended else self._text.add(token))
        if not stopped and (ended or full):
            last, stopped = self._stops.rest(self._text.rest())
            text += last
        self.finish = "stop" if stopped or ended else "length" if full else None
        return token, text


def choose(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Choose a token: the likeliest at temperature 0, else one drawn from those within `top_p`.

    Args:
        logits: [vocabulary], float32.
        sampling: Temperature and top_p.
        generator: What is drawn with, on the processor: a seed then gives the same on every device.
    """
    import torch

    if sampling.temperature == 0:
        return int(logits.argmax())
    logits = logits.cpu()
    probabilities = ((logits - logits.max()) / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        ordered[ordered.cumsum(-1) - ordered > sampling.top_p] = 0  # those before a token have enough already
        return int(order[torch.multinomial(ordered, 1, generator=generator)])
    return int(torch.multinomial(probabilities, 1, generator=generator))


class GrowingText:
    """Decodes tokens one by one, and gives each character when it is whole.

    What it gave, put together, is what the tokenizer makes of all tokens at once: tokens are decoded with some before
    them, since many tokenizers leave out a blank at the start, or split a character over several tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._before: list[int] = []  # tokens that were given, and are decoded along
        self._ids: list[int] = []
        self._given = 0  # characters of `_ids` that were given

    def add(self, token: int) -> str:
        """Take a token; return the characters that are whole by now and were not given before."""
        self._ids.append(token)
        text = self._decoded()
        whole = text.rstrip(_UNFINISHED)
        fresh = whole[self._given :]
        self._given = max(self._given, len(whole))
        if text and whole == text:
            self._before, self._ids, self._given = self._ids, [], 0
        return fresh

    def rest(self) -> str:
        """Return what is left at the end, such as a character that was never finished."""
        return self._decoded()[self._given :]

    def _decoded(self) -> str:
        before = self._decode(self._before)
        return self._decode(self._before + self._ids)[len(before) :]

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


class Stops:
    """Looks for strings that end a text which comes in pieces, and holds back what may be the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def pass_on(self, text: str) -> tuple[str, bool]:
        """Take a piece; return what may be shown, and whether a string was found that ends the text."""
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            return self._held[: min(places)], True
        held = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        shown, self._held = self._held[: len(self._held) - held], self._held[len(self._held) - held :]
        return shown, False

    def rest(self, text: str) -> tuple[str, bool]:
        """Take the last piece; return all that may be shown, and whether a string was found that ends the text."""
        shown, stopped = self.pass_on(text)
        return (shown if stopped else shown + self._held), stopped


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of a text with which a string begins."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
