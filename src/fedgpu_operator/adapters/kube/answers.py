"""Reads what an API server answers, trusting none of it: bounded in size, checked in shape, errors as our own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Final, cast

import aiohttp
from aiohttp.http import HttpProcessingError

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    GoneError,
    KubeError,
    NotFoundError,
    RejectedError,
    TooLargeError,
    UnreachableError,
)
from fedgpu_operator.ports import WatchEvent

MAX_STATUS_BYTES: Final = 2**20
MAX_MESSAGE: Final = 2000

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


async def read_object(response: aiohttp.ClientResponse, most: int) -> tuple[JSONObject, int]:
    """The JSON object of an answer, and its size in bytes.

    Raises UnreachableError for one that breaks off, is larger than `most` bytes, packed, or no JSON object.
    """
    where = f"{response.method} {response.url.path}"
    if response.headers.get("Content-Encoding", "identity") != "identity":
        response.close()
        raise UnreachableError(f"{where}: the answer is compressed, though none was asked to be")
    body = await _body(response, most)
    if body is None:
        raise UnreachableError(f"{where}: the answer is larger than {most} bytes")
    parsed = _parse(body)
    if parsed is None:
        raise UnreachableError(f"{where}: answered {response.status} without a Kubernetes object")
    return parsed, len(body)


async def read_error(method: str, path: str, response: aiohttp.ClientResponse) -> KubeError:
    """The failure that an answer of status 300 or more stands for."""
    body = await _body(response, MAX_STATUS_BYTES)
    return _error(method, path, response.status, _parse(body or b"") or {})


async def read_events(response: aiohttp.ClientResponse) -> AsyncIterator[WatchEvent]:
    """The events of a watch, until the server ends it; raises the KubeError tree."""
    where = f"WATCH {response.url.path}"
    try:
        async for line in response.content:
            event = _parse(line)
            kind, obj = (event or {}).get("type"), (event or {}).get("object")
            if kind == "ERROR" and isinstance(obj, dict):
                code = obj.get("code")
                raise _error("WATCH", response.url.path, code if isinstance(code, int) else 0, obj)
            if kind not in _EVENTS:
                raise UnreachableError(f"{where}: sent what is no watch event")
            yield WatchEvent(kind, checked(obj, where))
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise UnreachableError(f"{where}: {told(error)}") from error
    except asyncio.IncompleteReadError as error:
        raise UnreachableError(f"{where}: the stream ended in mid-line") from error
    except (HttpProcessingError, ValueError) as error:
        # aiohttp's reader, by its version, says one or the other of a line that outgrows its buffer.
        raise UnreachableError(f"{where}: sent an event that is too large") from error


def checked(obj: object, where: str) -> JSONObject:
    """That value if it is an object with metadata; raises UnreachableError for anything else."""
    if isinstance(obj, dict) and isinstance(obj.get("metadata"), dict):
        return cast("JSONObject", obj)
    raise UnreachableError(f"{where}: sent an object without metadata")


def told(error: Exception) -> str:
    """A transport error in words that cannot hold a byte of what the other side sent."""
    if isinstance(error, RedirectError | aiohttp.ClientConnectorError | OSError):
        return f"{type(error).__name__}: {error}"
    return type(error).__name__


def _error(method: str, path: str, status: int, details: JSONObject) -> KubeError:
    """The API server's Status object as one of our errors; its message already names the field and the fix.

    Nothing else is quoted: what is no Kubernetes answer may be a page of a server that only we can reach.
    """
    if details.get("kind") != "Status":
        return _typed(f"{method} {path}: answered {status} without a Kubernetes status", status)
    text = " ".join(str(details.get("message") or details.get("reason") or "no message").split())
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


def _parse(body: bytes) -> JSONObject | None:
    """None for what is no JSON object, however it fails to be one."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


async def _body(response: aiohttp.ClientResponse, most: int) -> bytes | None:
    """All of it, None where there is more than `most`."""
    held = bytearray()
    try:
        async for chunk in response.content.iter_any():
            held += chunk
            if len(held) > most:
                response.close()
                return None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise UnreachableError(f"{response.method} {response.url.path}: {told(error)}") from error
    return bytes(held)
