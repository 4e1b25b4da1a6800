"""What goes wrong with the hub and with other places, each as one sentence that holds no secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx2

from peftkit.errors import ConfigError, PeftkitError, RemoteError, first_line

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}|(?i:bearer|basic)\s+[\w.~+/=-]+")
_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>]+")
_REFUSED_CARD = "Invalid metadata in README.md"  # how huggingface_hub says it
_LOGIN = "run `hf auth login`, or name a file that holds a token with --token-file"


@contextmanager
def hub_errors(place: str, revision: str | None = None, token: str | None = None) -> Iterator[None]:
    """Turn what the hub and the network raise into one sentence; the error itself is dropped, as it may hold a token.

    Args:
        place: What was asked for, such as `hf:owner/name`.
        revision: The revision that was asked for.
        token: The secret that must not be said.

    Raises:
        PeftkitError: In place of it.
    """
    try:
        yield
    except PeftkitError:
        raise
    except Exception as error:
        if _is_local(error):
            raise
        raise _explain(error, place, revision, token) from None


def redact(text: str, *secrets: str | None) -> str:
    """Take tokens, passwords in addresses, and the signed ends of addresses out of a text."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "...")
    return _ADDRESS.sub(lambda match: redact_address(match[0]), _TOKEN.sub("...", text))


def redact_address(address: str) -> str:
    """Return an address without user, password and query."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "..."
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "..." if parts.query else "", ""))


def trouble(place: str, status: int, wait: float | None = None) -> RemoteError:
    """Return the error for an answer that came again and again: too many requests, or a fault of the server."""
    if status == 429:
        later = f"in {wait:.0f} seconds" if wait is not None else "later"
        return RemoteError(f"{place} is asked too often (429); try again {later}")
    return RemoteError(f"{place} has a fault of its own ({status}); try again later")


def _is_local(error: Exception) -> bool:
    """Whether the disk is what failed: the hub's errors are OSErrors too, but have no number."""
    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


def _explain(error: Exception, place: str, revision: str | None, token: str | None) -> PeftkitError:
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    if str(error).startswith(_REFUSED_CARD):
        said = _said(" ".join(str(error).removeprefix(_REFUSED_CARD).split()).lstrip(". -"), token)
        return RemoteError(
            f"{place}: the hub refuses the head of README.md: {said}; mend it, or let `peftkit card` do it"
        )
    for one in _chain(error):
        if isinstance(one, PeftkitError):
            return one
        response = getattr(one, "response", None)
        if isinstance(response, httpx2.Response):
            return _of_status(response.status_code, one, place, revision, token)
        if isinstance(one, OfflineModeIsEnabled):
            return RemoteError(f"{place} cannot be reached: HF_HUB_OFFLINE=1 is set; unset it, or use a folder")
        if isinstance(one, LocalTokenNotFoundError):
            return RemoteError(f"{place} needs a token; {_LOGIN}")
        if isinstance(one, HFValidationError):
            return ConfigError(f"{place} is no name of a repository; write hf:owner/name")
        if isinstance(one, httpx2.TimeoutException):
            return RemoteError(f"{place} does not answer in time; check the network, and try again")
        if isinstance(one, httpx2.TransportError):
            return RemoteError(f"{place} cannot be reached ({_said(one, token)}); check the network and HF_ENDPOINT")
    return RemoteError(f"{place}: {_said(error, token)}; try again")


def _of_status(status: int, error: BaseException, place: str, revision: str | None, token: str | None) -> PeftkitError:
    from huggingface_hub.errors import GatedRepoError, RemoteEntryNotFoundError, RevisionNotFoundError

    if isinstance(error, RevisionNotFoundError):
        return RemoteError(f"{place} has no revision '{revision}'; look at its branches, tags and commits")
    if isinstance(error, RemoteEntryNotFoundError):
        return RemoteError(f"{place} lacks a file that it lists; try again")
    if isinstance(error, GatedRepoError):
        return RemoteError(f"{place} is gated; accept its terms on its page, and {_LOGIN}")
    if status == 401:
        wrong = "does not accept the token" if token else "wants to know who asks"
        return RemoteError(f"{place} is not there, or the hub {wrong} (401); {_LOGIN}")
    said = getattr(error, "server_message", None)
    why = f": {_said(said, token)}" if said else ""
    if status == 403:
        return RemoteError(f"{place}: the token may not do this (403{why}); use one that may write there")
    if status == 404:
        return RemoteError(f"{place} is not on the hub, or is hidden from you (404); check the name, or {_LOGIN}")
    if status in (409, 412):
        return RemoteError(f"{place} was changed by someone else in the meantime ({status}); look at it, and try again")
    if status == 429 or status >= 500:
        return trouble(place, status)
    return RemoteError(f"{place}: the hub refuses this ({status}{why}); update huggingface_hub, or try again later")


def _said(what: Any, token: str | None) -> str:
    line = first_line(what if isinstance(what, BaseException) else Exception(str(what)))
    return redact(" ".join(line.split()), token)
