"""Who may come in: the key, and the name by which the server is called."""

from __future__ import annotations

import hashlib
import hmac
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from peftkit.serve.errors import UNAUTHORIZED, ApiError

OPEN = "/health"
"""The address that needs no key, so that a watchdog needs none."""

_PORT = re.compile(r":\d*$")  # not the end of [::1], which has a bracket


class Gate:
    """Lets requests through to the application that show the key, and call the server by one of its names.

    Args:
        app: The application.
        key: What clients must show as `Authorization: Bearer KEY`; None lets everyone in.
        hosts: Names in the header `Host`; None allows any. On the loopback address this keeps out web pages that had
            their own name pointed there.
    """

    def __init__(self, app: ASGIApp, *, key: str | None, hosts: frozenset[str] | None) -> None:
        self._app = app
        self._key = None if key is None else _digest(key)
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection, as ASGI says."""
        if scope["type"] == "http":
            refused = self._refused(Headers(scope=scope), scope["path"])
            if refused is not None:
                await refused.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refused(self, headers: Headers, path: str) -> ApiError | None:
        host = _PORT.sub("", headers.get("host", "").lower())
        if self._hosts is not None and host not in self._hosts:
            return ApiError(421, "this server is not called by that name; use its address, or 127.0.0.1")
        if self._key is None or path == OPEN:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(_digest(given.strip()), self._key)  # in the same time whatever was given
        if kind.lower() == "bearer" and right:
            return None
        return ApiError(
            UNAUTHORIZED,
            "the key is missing or wrong; send it as Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
