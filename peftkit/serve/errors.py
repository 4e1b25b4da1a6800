"""Errors as OpenAI's clients know them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.responses import Response

BAD_REQUEST, UNAUTHORIZED, NOT_FOUND, TOO_LARGE, TOO_MANY, FAILED, UNAVAILABLE = 400, 401, 404, 413, 429, 500, 503


class ApiError(Exception):
    """Why a request gets no answer.

    Args:
        status: The status of HTTP.
        message: What was wrong, as a sentence.
        kind: OpenAI's `type` of it.
        param: The key of the request that is to blame.
        code: OpenAI's `code` of it.
        headers: More headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body: dict[str, Any] = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    @classmethod
    def invalid(cls, message: str, param: str | None = None, code: str | None = None) -> ApiError:
        """Return the error of a request that can never be answered as it is."""
        return cls(BAD_REQUEST, message, param=param, code=code)

    def response(self) -> Response:
        """Return it as a response."""
        from starlette.responses import JSONResponse

        return JSONResponse(self.body, self.status, headers=self.headers)
