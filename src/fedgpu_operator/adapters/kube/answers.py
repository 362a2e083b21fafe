"""Reads what an API server answers, trusting none of it: bounded in size, checked in shape, errors as our own."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Final, Literal, Protocol, cast

import aiohttp
from aiohttp.http import HttpProcessingError

from fedgpu_operator.adapters.kube.parser import ParseRules, off_the_loop, parse_event, parse_object
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.domain.text import clean_line, is_name
from fedgpu_operator.errors import (
    AlreadyExistsError,
    AnswerTooLargeError,
    CertificateRefusedError,
    ConflictError,
    ForbiddenError,
    GoneError,
    KubeError,
    NotFoundError,
    RejectedError,
    TooLargeError,
    UnreachableError,
)
from fedgpu_operator.ports import LeaderCheck, WatchEvent

MAX_STATUS_BYTES: Final = 256 * 1024
MAX_MESSAGE: Final = 2000
EVENT_SECONDS: Final = 50e-6
"""What is taken off a budget for each event besides its parsing: what it sets off costs time, too."""
SLICE_SECONDS: Final = 0.005
"""So long the events of one watch may keep the event loop before others have their turn."""

_BY_STATUS: Final[Mapping[int, type[KubeError]]] = {
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    413: TooLargeError,
    422: RejectedError,
}
_UNREACHABLE: Final = frozenset({0, 429, 500, 502, 503, 504})
"""Statuses that say nothing about the object: the server or a proxy before it could not answer."""
_TOO_LARGE: Final = ("etcdserver: request is too large", "trying to send message larger than max")
"""What an API server says, with status 500, of an object that its etcd, or its connection to it, does not take."""
_EVENTS: Final = ("ADDED", "MODIFIED", "DELETED", "BOOKMARK")
_STRICT_ONLY: Final = range(80, 94)
"""OpenSSL's codes for what only VERIFY_X509_STRICT refuses: certificates that break RFC 5280 in form."""


class Spend(Protocol):
    """Takes what an answer cost off the server's budget; raises BudgetExceededError where it is used up."""

    def __call__(self, *, received: int = 0, seconds: float = 0.0) -> None: ...


class RedirectError(aiohttp.ClientError):
    """The server sent us elsewhere; no API server does, and elsewhere may be inside the hub's own network."""


def refuse_redirects() -> aiohttp.TraceConfig:
    """A hook for an aiohttp session that ends a request at its first redirect, before anything else is asked."""

    async def refuse(session: aiohttp.ClientSession, context: object, seen: aiohttp.TraceRequestRedirectParams) -> None:
        del session, context
        seen.response.close()
        raise RedirectError(f"answered {seen.response.status}: redirects are not followed")

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(refuse)
    return trace


def only_leading(check: LeaderCheck) -> aiohttp.TraceConfig:
    """A hook for an aiohttp session that ends a request which is no GET, HEAD or OPTIONS unless this process leads.

    It is asked when the request begins and again when there is a connection to send it on, which may have taken long.
    """

    async def begin(_session: object, context: SimpleNamespace, sent: aiohttp.TraceRequestStartParams) -> None:
        context.changes = sent.method not in {"GET", "HEAD", "OPTIONS"}
        await connected(_session, context, None)

    async def connected(_session: object, context: SimpleNamespace, _seen: object) -> None:
        if context.changes:
            check()

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(begin)
    trace.on_connection_create_end.append(connected)
    trace.on_connection_reuseconn.append(connected)
    return trace


async def read_body(
    response: aiohttp.ClientResponse, most: int, spend: Spend, grown: Callable[[int], Awaitable[None]] | None = None
) -> bytearray:
    """The whole body of an answer; `grown` is awaited with its size so far, and may make a large one wait.

    Raises UnreachableError for one that breaks off or is packed, AnswerTooLargeError for more than `most` bytes.
    """
    where = _plain(response)
    held = bytearray()
    try:
        async for chunk in response.content.iter_any():
            spend(received=len(chunk))
            held += chunk
            if len(held) > most:
                raise AnswerTooLargeError(f"{where}: the answer is larger than {most} bytes")
            if grown is not None:
                await grown(len(held))
    except KubeError:
        response.close()
        raise
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise unreachable(where, error) from error
    return held


async def read_pieces(
    response: aiohttp.ClientResponse, size: int, spend: Spend, wait: Callable[[Awaitable[bytes]], Awaitable[bytes]]
) -> AsyncIterator[tuple[memoryview, bool]]:
    """The body of an answer in pieces of at most `size` bytes, and whether each is the last; raises UnreachableError.

    `wait` awaits what the server sends next. Only what it sent and nobody has taken yet is held.
    """
    where, held = _plain(response), bytearray()
    while True:
        try:
            chunk = await wait(response.content.readany())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unreachable(where, error) from error
        spend(received=len(chunk))
        held += chunk
        if not chunk:
            yield memoryview(held), True
            return
        whole = len(held) - len(held) % size
        if whole:
            taken, held = memoryview(held), held[whole:]
            for begin in range(0, whole, size):
                yield taken[begin : begin + size], False


def _plain(response: aiohttp.ClientResponse) -> str:
    """What was asked, for messages; raises UnreachableError for an answer that is compressed."""
    where = f"{response.method} {response.url.path}"
    if response.headers.get("Content-Encoding", "identity") != "identity":
        response.close()
        raise UnreachableError(f"{where}: the answer is compressed, which was not asked for")
    return where


async def read_error(method: str, path: str, response: aiohttp.ClientResponse, spend: Spend) -> KubeError:
    """The failure that an answer of status 300 or more stands for."""
    try:
        body = await read_body(response, MAX_STATUS_BYTES, spend)
        details = parse_object(body, ParseRules(object_bytes=MAX_STATUS_BYTES, cleans=True))
    except (AnswerTooLargeError, ValueError, RecursionError):
        details = {}
    return _error(method, path, response.status, details)


async def read_events(response: aiohttp.ClientResponse, reading: ParseRules, spend: Spend) -> AsyncIterator[WatchEvent]:
    """The events of a watch, until the server ends it; raises the KubeError tree."""
    where, begun = f"WATCH {response.url.path}", time.monotonic()
    async for line in _lines(response, reading.object_bytes, spend, where):
        parse = partial(parse_event, line, reading)
        try:
            (kind, obj), seconds = await off_the_loop(parse, len(line), queued=reading.cleans)
        except (ValueError, RecursionError) as error:
            raise UnreachableError(f"{where}: sent what is not a watch event") from error
        spend(seconds=seconds + EVENT_SECONDS)
        if kind == "ERROR":
            code = obj.get("code")
            raise _error("WATCH", response.url.path, code if isinstance(code, int) else 0, obj)
        if kind not in _EVENTS:
            raise UnreachableError(f"{where}: sent what is not a watch event")
        yield WatchEvent(cast('Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]', kind), _changed(kind, obj, where))
        if time.monotonic() - begun > SLICE_SECONDS:
            await asyncio.sleep(0)
            begun = time.monotonic()


async def _lines(response: aiohttp.ClientResponse, most: int, spend: Spend, where: str) -> AsyncIterator[bytearray]:
    """Each line as it is complete, and what is left at the end."""
    held, searched = bytearray(), 0
    try:
        async for chunk in response.content.iter_any():
            spend(received=len(chunk))
            held += chunk
            start = 0
            while (end := held.find(b"\n", max(start, searched))) >= 0:
                if end - start > most:
                    break
                yield held[start:end]
                start = end + 1
            del held[:start]
            searched = len(held)
            if len(held) > most:
                raise AnswerTooLargeError(f"{where}: sent an event that is larger than {most} bytes")
    except (aiohttp.ClientError, TimeoutError, OSError, HttpProcessingError) as error:
        raise unreachable(where, error) from error
    if held:
        yield held


def checked(obj: JSONObject, where: str, *, named: bool = False) -> JSONObject:
    """That object if its metadata is some, and what identifies it can: names are refused, never altered.

    Raises UnreachableError for anything else, and where it is `named` for one without a name.
    """
    meta = obj.get("metadata")
    if not isinstance(meta, dict):
        raise UnreachableError(f"{where}: sent an object without metadata")
    for field in ("name", "namespace", "uid", "resourceVersion"):
        value = meta.get(field, "")
        if value != "" and not is_name(value):
            raise UnreachableError(f"{where}: sent an object whose metadata.{field} is not valid")
    if named and not meta.get("name"):
        raise UnreachableError(f"{where}: sent an object without a name in its metadata")
    return obj


def unreachable(where: str, error: Exception) -> UnreachableError:
    """A transport error in words that cannot hold a byte of what the other side sent."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return CertificateRefusedError(f"{where}: {_certificate(error.certificate_error)}", sent=False)
    if isinstance(error, RedirectError | aiohttp.ClientConnectorError | OSError):
        # Without a connection nothing was sent.
        sent = not isinstance(error, aiohttp.ClientConnectorError)
        return UnreachableError(f"{where}: {type(error).__name__}: {error}", sent=sent)
    return UnreachableError(f"{where}: {type(error).__name__}")


def _certificate(error: Exception) -> str:
    """Why a server's certificate was not accepted, with the fix; the words are those of our own OpenSSL."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return "the certificate of the API server was not accepted"
    if error.verify_code in _STRICT_ONLY:
        return (
            f"the certificate of the API server or its CA breaks RFC 5280 ({error.verify_message}): renew the CA and "
            "the certificate with what is missing, or set spec.connection.tls.x509Strict to false"
        )
    return (
        f"the certificate of the API server was not accepted ({error.verify_message}): the kubeconfig must carry the "
        "CA that signed it in certificate-authority-data, and name the server as the certificate does"
    )


def _changed(kind: str, obj: JSONObject, where: str) -> JSONObject:
    """The object of an event; a bookmark says no more than a version."""
    obj = checked(obj, where, named=kind != "BOOKMARK")
    if not obj["metadata"].get("resourceVersion"):
        raise UnreachableError(f"{where}: sent an object without a resourceVersion in its metadata")
    return obj


def _error(method: str, path: str, status: int, details: JSONObject) -> KubeError:
    """The API server's Status object as one of our errors; its message already names the field and the fix.

    Nothing else is quoted: what is no Kubernetes answer may be a page of a server that only we can reach.
    """
    if details.get("kind") != "Status":
        return _typed(f"{method} {path}: answered {status} without a Kubernetes status", status)
    text = clean_line(str(details.get("message") or details.get("reason") or "no message")[: 2 * MAX_MESSAGE])
    message = f"{method} {path}: {status}: {text[:MAX_MESSAGE]}"
    if status == 409 and details.get("reason") == "AlreadyExists":
        return AlreadyExistsError(message, status=status)
    if status == 500 and any(words in text for words in _TOO_LARGE):
        return TooLargeError(message, status=413)
    return _typed(message, status)


def _typed(message: str, status: int) -> KubeError:
    if status in _UNREACHABLE:
        return UnreachableError(message, status=status)
    return _BY_STATUS.get(status, KubeError)(message, status=status)
