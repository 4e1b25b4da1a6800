"""What a client may ask, in OpenAI's words, and what is refused: every key is known, and none is silently ignored."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from peftkit.data.messages import BadMessages, asked_messages
from peftkit.serve.errors import ApiError
from peftkit.serve.writing import Sampling

COMPLETION_TOKENS = 16
"""Longest answer of a completion where the request does not say, as in OpenAI's description."""

_STOPS = 4  # as many as OpenAI takes
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "echo": (False,),
    "suffix": ("",),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
}
"""What is not done here, with the values that ask for nothing; null always does."""
_UNSEEN = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
    "tool_choice",
    "function_call",
)
"""What changes no answer: labels for the provider's own books, and choices among tools that are not there."""


class StreamOptions(BaseModel):
    """How a stream ends."""

    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool = False


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    model: str
    max_tokens: Annotated[int | None, Field(ge=1, lt=2**31)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @field_validator("stop")
    @classmethod
    def _few_and_not_empty(cls, stop: str | list[str] | None) -> str | list[str] | None:
        stops = [stop] if isinstance(stop, str) else stop or []
        if len(stops) > _STOPS or not all(stops):
            raise ValueError(f"takes up to {_STOPS} strings, none of them empty")
        return stop

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, max_tokens: int) -> Sampling:
        """Return how tokens are chosen: the likeliest ones, unless a temperature is given."""
        return Sampling(
            max_tokens,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
        )


class ChatRequest(_Request):
    """The body of a request to `/v1/chat/completions`."""

    messages: Annotated[list[Any], Field(min_length=1)]
    max_completion_tokens: Annotated[int | None, Field(ge=1, lt=2**31)] = None

    @property
    def asked_tokens(self) -> int | None:
        """Longest answer that was asked for, if any."""
        return self.max_completion_tokens or self.max_tokens

    def conversation(self) -> list[dict[str, Any]]:
        """Return the messages in one form.

        Raises:
            ApiError: One cannot be used, or the last is not the user's.
        """
        try:
            return asked_messages(self.messages)
        except BadMessages as error:
            raise ApiError.invalid(f"messages: {error}", "messages") from error


class CompletionRequest(_Request):
    """The body of a request to `/v1/completions`."""

    prompt: str | list[int] | list[str] | list[list[int]]

    def prompts(self) -> list[str] | list[list[int]]:
        """Return the prompts, each a text or token ids; most requests have one."""
        given: Any = self.prompt
        alone = isinstance(given, str) or (given and isinstance(given[0], int))
        return [given] if alone else given


Body = TypeVar("Body", bound=_Request)


def parse(kind: type[Body], body: bytes) -> Body:
    """Read the body of a request.

    Raises:
        ApiError: It is no JSON, lacks a key, has one of the wrong type, or asks for what is not done here.
    """
    try:
        request = kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise ApiError.invalid("the body of the request is not valid JSON") from None
        name = str(first["loc"][0]) if first["loc"] else None
        raise ApiError.invalid(f"{name or 'the body'}: {first['msg'].removeprefix('Value error, ')}", name) from None
    for name, value in (request.model_extra or {}).items():
        if name in _UNSEEN or value is None or any(value == one for one in _NEUTRAL.get(name, ())):
            continue
        if name in _NEUTRAL:
            raise ApiError.invalid(f"{name} is not supported by this server; leave it out", name, "unsupported_value")
        raise ApiError.invalid(f"unknown argument: {name[:64]!r}", name[:64], "unknown_parameter")
    return request
