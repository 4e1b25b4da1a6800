"""From a request to its answers: which model, which prompt, and the pieces as they come."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from peftkit.errors import DataError
from peftkit.serve.asking import Asking
from peftkit.serve.batching import STOPPING, Engine, QueueFull, Stopping
from peftkit.serve.errors import FAILED, NOT_FOUND, TOO_MANY, UNAVAILABLE, ApiError
from peftkit.serve.forms import Usage
from peftkit.serve.requests import COMPLETION_TOKENS, ChatRequest, CompletionRequest
from peftkit.serve.rows import Job, Piece
from peftkit.serve.writing import Sampling, Writer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """What one answer follows: token ids, the ids that end it, and how its tokens are chosen."""

    ids: Sequence[int]
    end_ids: frozenset[int]
    sampling: Sampling


class Service:
    """The models that are served, by their names, and the engine that all of them share.

    Args:
        models: How each is asked.
        engine: Generates the answers.
        decoder: A tokenizer that the engine's thread alone decodes with.
        vocabulary: How many tokens the model knows.
    """

    def __init__(
        self, models: Mapping[str, Asking], engine: Engine, decoder: PreTrainedTokenizerBase, vocabulary: int
    ) -> None:
        self.models = models
        self.engine = engine
        self._decoder = decoder
        self._vocabulary = vocabulary
        self._encoding = threading.Lock()  # a tokenizer must not be used by two threads at once
        self._since = int(time.time())

    def model(self, name: str) -> Asking:
        """Return how a model is asked.

        Raises:
            ApiError: There is none of that name.
        """
        if name not in self.models:
            raise ApiError(
                NOT_FOUND,
                f"there is no model {name[:64]!r} here; there are: {', '.join(self.models)}",
                param="model",
                code="model_not_found",
            )
        return self.models[name]

    def about(self, name: str) -> dict[str, Any]:
        """Describe a model as OpenAI's list of models does."""
        return {"id": self.model(name).name, "object": "model", "created": self._since, "owned_by": "peftkit"}

    def prompts(self, request: ChatRequest | CompletionRequest) -> list[Prompt]:
        """Encode what a request asks; it may take a while, and is to be called in a thread of its own.

        Raises:
            ApiError: There is no such model, it cannot be asked this, or prompt and answer are too long for it.
        """
        asking = self.model(request.model)
        with self._encoding:
            if isinstance(request, ChatRequest):
                return [_chat_prompt(asking, request)]
            prompts = request.prompts()
            if not 0 < len(prompts) <= self.engine.capacity:
                raise ApiError.invalid(f"prompt: give 1 to {self.engine.capacity} prompts", "prompt")
            return [self._completion_prompt(asking, request, one) for one in prompts]

    def begin(self, key: str | None, prompts: Sequence[Prompt]) -> Answers:
        """Put prompts into the queue; to be called from the event loop.

        Args:
            key: PEFT's name of the adapter; None for the base model.
            prompts: All of them are taken, or none.

        Raises:
            ApiError: The queue is full, or the server ends.
        """
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()

        def tell(place: int, piece: Piece) -> None:
            with suppress(RuntimeError):  # the loop has ended, and nobody listens any more
                loop.call_soon_threadsafe(pieces.put_nowait, (place, piece))

        jobs = [
            Job(one.ids, key, Writer(self._decoder, one.end_ids, one.sampling), partial(tell, place))
            for place, one in enumerate(prompts)
        ]
        try:
            self.engine.submit(jobs)
        except QueueFull as error:
            wait = {"Retry-After": str(error.retry_after)}
            raise ApiError(
                TOO_MANY, str(error), "rate_limit_error", code="rate_limit_exceeded", headers=wait
            ) from error
        except Stopping as error:
            raise ApiError(UNAVAILABLE, STOPPING, "server_error") from error
        return Answers(jobs, pieces)

    def _completion_prompt(self, asking: Asking, request: CompletionRequest, prompt: str | list[int]) -> Prompt:
        if isinstance(prompt, str):
            ids, end_ids = asking.text(prompt)
        else:
            ids, end_ids = prompt, asking.ends
            if not all(0 <= one < self._vocabulary for one in ids):
                raise ApiError.invalid(f"prompt: token ids are 0 to {self._vocabulary - 1}", "prompt")
        return _fitted(asking, request, ids, end_ids, request.max_tokens, COMPLETION_TOKENS, "prompt")


class Answers:
    """The answers to one request, as they come.

    Args:
        jobs: What was put into the queue.
        pieces: Where their pieces arrive, each with the number of its job.
    """

    def __init__(self, jobs: Sequence[Job], pieces: asyncio.Queue[tuple[int, Piece]]) -> None:
        self._jobs = jobs
        self._pieces = pieces
        self._tokens = [0] * len(jobs)

    def __len__(self) -> int:
        return len(self._jobs)

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Give each piece with the number of its answer, until all have ended.

        Raises:
            ApiError: The model failed, or the server ends.
        """
        left = len(self._jobs)
        while left:
            place, piece = await self._pieces.get()
            if piece.failure is not None:
                status = UNAVAILABLE if piece.failure == STOPPING else FAILED
                raise ApiError(status, piece.failure, "server_error")
            self._tokens[place] = piece.tokens
            left -= piece.finish is not None
            yield place, piece

    def cancel(self) -> None:
        """Generate no more of what nobody waits for."""
        for job in self._jobs:
            job.cancelled = True

    def usage(self) -> Usage:
        """Return the number of tokens so far."""
        return Usage(sum(len(job.prompt) for job in self._jobs), sum(self._tokens))


def _chat_prompt(asking: Asking, request: ChatRequest) -> Prompt:
    messages = request.conversation()
    try:
        ids, end_ids = asking.conversation(messages)
    except DataError as error:
        raise ApiError.invalid(str(error), "messages") from error
    usual = asking.usual_tokens(in_wording=asking.uses_wording(messages))
    return _fitted(asking, request, ids, end_ids, request.asked_tokens, usual, "messages")


def _fitted(
    asking: Asking,
    request: ChatRequest | CompletionRequest,
    ids: Sequence[int],
    end_ids: frozenset[int],
    asked: int | None,
    usual: int,
    param: str,
) -> Prompt:
    """Return a prompt whose answer has room: as much as was asked for, or else as is usual and there is."""
    if not ids:
        raise ApiError.invalid(f"{param}: there is nothing to continue", param)
    room = asking.limit - len(ids)
    if room < (asked or 1):
        raise ApiError.invalid(
            f"the model reads and writes at most {asking.limit} tokens; {len(ids)} in {param} and {asked or 1} of the "
            "answer are more",
            param,
            "context_length_exceeded",
        )
    return Prompt(ids, end_ids, request.sampling(asked or min(usual, room)))
