"""An HTTP client for huggingface_hub that waits when it is told to, but neither for long nor for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import huggingface_hub.utils
from huggingface_hub import get_session, set_client_factory

from peftkit.share.remote_errors import trouble

TRIES = 5
"""How often a request is sent at most."""
LONGEST_WAIT = 60.0
"""Seconds that are waited at most before one try; a server that asks for more is not waited for."""
_TIMEOUT = httpx2.Timeout(120.0, connect=15.0)
_FAULTS = (500, 502, 503, 504)
_utils: Any = huggingface_hub.utils  # it names its functions without exporting them to type checkers


class PatientClient(httpx2.Client):
    """Sends a request again after 429 and after faults of the server, as `Retry-After` says or twice as late each time.

    Uploads are left to huggingface_hub, which can begin a file anew; a commit is not sent twice after a fault, since it
    may have been made.

    Args:
        place: What errors call the server.
        hooks: What huggingface_hub does with each request.
    """

    def __init__(self, place: str, hooks: Mapping[str, list[Any]]) -> None:
        super().__init__(event_hooks=hooks, follow_redirects=True, timeout=_TIMEOUT)
        self._place = place

    def send(self, request: httpx2.Request, **arguments: Any) -> httpx2.Response:
        """Send a request, and again where that helps.

        Raises:
            RemoteError: The server has faults, or is asked too often, at each try; or it asks for too long a wait.
        """
        for attempt in range(TRIES):
            response = super().send(request, **arguments)
            status = response.status_code
            if status != 429 and status not in _FAULTS:
                return response
            asked = _asked_wait(response)
            if request.method == "PUT" and (asked or 0) <= LONGEST_WAIT:
                return response
            response.close()
            wait = 2.0**attempt if asked is None else asked
            is_commit = "/commit/" in request.url.path
            if wait > LONGEST_WAIT or attempt == TRIES - 1 or (is_commit and status != 429):
                raise trouble(self._place, status, asked)
            time.sleep(wait)
        raise AssertionError("unreachable: the last try returns or raises")


def _asked_wait(response: httpx2.Response) -> float | None:
    """Return the seconds that a server asks to wait: by `Retry-After`, or by its limit of requests."""
    limit = _utils.parse_ratelimit_headers(response.headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    word = response.headers.get("retry-after", "").strip()
    if word.isdigit():
        return float(word)
    try:
        return max(0.0, parsedate_to_datetime(word).timestamp() - time.time())
    except ValueError:
        return None


@contextmanager
def patient(place: str) -> Iterator[None]:
    """Let huggingface_hub use a patient client, and keep its remarks and bars off the screen."""
    verbosity, silent = _utils.logging.get_verbosity(), _utils.are_progress_bars_disabled()
    hooks = get_session().event_hooks
    set_client_factory(lambda: PatientClient(place, hooks))
    _utils.logging.set_verbosity_error()
    _utils.disable_progress_bars()
    try:
        yield
    finally:
        if not silent:
            _utils.enable_progress_bars()
        _utils.logging.set_verbosity(verbosity)
        # As huggingface_hub makes its own.
        set_client_factory(lambda: httpx2.Client(event_hooks=hooks, follow_redirects=True, timeout=None))
