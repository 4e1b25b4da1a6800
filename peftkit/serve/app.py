"""The server's routes: OpenAI's chats, completions and models, and the server's health."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from peftkit.serve.errors import FAILED, TOO_LARGE, ApiError
from peftkit.serve.forms import END, Form, Whole, event
from peftkit.serve.gate import Gate
from peftkit.serve.requests import ChatRequest, CompletionRequest, parse
from peftkit.serve.service import Answers, Service

LARGEST_BODY = 2 * 2**20
"""Bytes of a request's body: more than any model here reads."""
_BODY_SECONDS = 30.0  # within which the body of a request must have come
_GONE = 499  # a client that hung up sees no status; this one is for the log

Log = Callable[[str], None]


def make_app(service: Service, *, key: str | None, hosts: frozenset[str] | None, log: Log) -> Gate:
    """Make the server's application.

    Args:
        service: The models and the engine.
        key: What clients must show; None lets everyone in.
        hosts: The names by which clients may call the server; None allows any.
        log: Told a line for each request: never its text, nor a key.
    """
    routes = _Routes(service, log)
    app = Starlette(
        routes=[
            Route("/health", routes.health),
            Route("/v1/models", routes.models),
            Route("/v1/models/{name:path}", routes.model),
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
            Route("/v1/completions", routes.completion, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _no_route},  # type: ignore[dict-item]
    )
    return Gate(app, key=key, hosts=hosts)


class _Routes:
    def __init__(self, service: Service, log: Log) -> None:
        self._service = service
        self._log = log

    async def health(self, request: Request) -> Response:
        running, waiting = self._service.engine.counts()
        return JSONResponse({"status": "ok", "running": running, "waiting": waiting})

    async def models(self, request: Request) -> Response:
        data = [self._service.about(name) for name in self._service.models]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        try:
            return JSONResponse(self._service.about(request.path_params["name"]))
        except ApiError as error:
            return error.response()

    async def chat(self, request: Request) -> Response:
        return await self._logged(request, ChatRequest)

    async def completion(self, request: Request) -> Response:
        return await self._logged(request, CompletionRequest)

    async def _logged(self, request: Request, kind: type[ChatRequest] | type[CompletionRequest]) -> Response:
        """Answer a request; whatever happens, it ends in a response and in a line of the log without its text."""
        started = time.monotonic()

        def log(status: int, what: str) -> None:
            self._log(f"{status} {request.url.path} {what} in {time.monotonic() - started:.2f} s")

        try:
            asked = parse(kind, await _body(request))
            prompts = await run_in_threadpool(self._service.prompts, asked)
            answers = self._service.begin(self._service.model(asked.model).key, prompts)
            form = Form(asked.model, chat=kind is ChatRequest)
            if asked.stream:
                events = _events(form, answers, log, with_usage=asked.with_usage)
                return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
            try:
                whole = await _unless_gone(request, _whole(answers))
            finally:
                answers.cancel()  # one of several prompts may have failed, and the others go on
            if whole is None:
                log(_GONE, f"{asked.model}: the client hung up")
                return Response(status_code=_GONE)
            log(200, _tokens(form, answers))
            return JSONResponse(form.whole(whole, answers.usage()))
        except ApiError as error:
            log(error.status, "refused")
            return error.response()
        except ClientDisconnect:
            log(_GONE, "the client hung up")
            return Response(status_code=_GONE)
        except Exception as error:  # what an error says may hold words of the request, so only its kind is told
            log(500, f"failed with {type(error).__name__}")
            return ApiError(FAILED, "the server failed on this request", "server_error").response()


async def _no_route(request: Request, error: HTTPException) -> Response:
    text = f"{request.method} is not for this address" if error.status_code == 405 else "there is no such address"
    return ApiError(error.status_code, text, headers=error.headers).response()


async def _body(request: Request) -> bytes:
    """Read a request's body.

    Raises:
        ApiError: It is too large, too slow, or is not said to be JSON.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a web page of someone else's can send any other kind from a browser
        raise ApiError(415, "the body must be JSON, with the header Content-Type: application/json")
    pieces, size = [], 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in request.stream():
                size += len(piece)
                if size > LARGEST_BODY:
                    raise ApiError(TOO_LARGE, f"the body has more than {LARGEST_BODY} bytes")
                pieces.append(piece)
    except TimeoutError as error:
        raise ApiError(408, f"the body did not come within {_BODY_SECONDS:.0f} s") from error
    return b"".join(pieces)


async def _whole(answers: Answers) -> list[Whole]:
    whole = [Whole() for _ in range(len(answers))]
    async for place, piece in answers.pieces():
        whole[place].text += piece.text
        whole[place].finish = piece.finish
    return whole


async def _unless_gone(request: Request, answer: Awaitable[list[Whole]]) -> list[Whole] | None:
    """Wait for an answer, or until the client hangs up: then there is none."""
    answering = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
        return answering.result() if answering.done() else None
    finally:
        answering.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(
    form: Form, answers: Answers, log: Callable[[int, str], None], *, with_usage: bool
) -> AsyncIterator[bytes]:
    """Give a response as a stream of events; a client that hangs up ends the generation."""
    status, what = _GONE, f"{form.model}: the client hung up"
    try:
        if begin := form.first():
            yield begin
        async for place, piece in answers.pieces():
            if piece.text or not form.chat:
                yield form.piece(place, piece.text, None if form.chat else piece.finish)
            if piece.finish and form.chat:
                yield form.piece(place, "", piece.finish)
        if with_usage:
            yield form.usage(answers.usage())
        status, what = 200, _tokens(form, answers)
        yield END
    except ApiError as error:
        status, what = error.status, "failed"
        yield event(error.body)
    finally:
        answers.cancel()
        log(status, what)


def _tokens(form: Form, answers: Answers) -> str:
    usage: Any = answers.usage()
    return f"{form.model}: {usage.prompt} + {usage.completion} tokens"
