"""A typed client for one API server on top of `kubernetes.aio`'s transport; maps every failure to the error tree."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, cast

import aiohttp
from kubernetes.aio.client import ApiClient

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    GoneError,
    KubeError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from fedgpu_operator.ports import ResourceType, WatchEvent

FIELD_MANAGER: Final = "fedgpu-operator"
PAGE_SIZE: Final = 500
"""client-go's own default page size for pagers."""
WATCH_SECONDS: Final = 290
"""The server ends the watch after this many seconds; below the 5 minutes of idle that common proxies allow."""

_BY_STATUS: Final[Mapping[int, type[KubeError]]] = {
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    422: RejectedError,
}
_UNREACHABLE: Final = frozenset({0, 429, 500, 502, 503, 504})
"""Statuses that say nothing about the object: the server or a proxy before it could not answer."""


class KubeClient:
    """Implements `ports.Kube`; owns its `ApiClient` and closes it."""

    def __init__(self, api: ApiClient, *, timeout: float = 15.0) -> None:
        self._api = api
        self._timeout = timeout

    async def get(self, kind: ResourceType, name: str, namespace: str = "") -> JSONObject:
        return await self._call("GET", _path(kind, namespace, name))

    async def list(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> tuple[list[JSONObject], str]:
        items: list[JSONObject] = []
        query: dict[str, str] = {"limit": str(PAGE_SIZE)}
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        while True:
            page = await self._call("GET", _path(kind, namespace), query=query)
            items.extend(page.get("items") or [])
            meta = page["metadata"]
            if not meta.get("continue"):
                return items, str(meta["resourceVersion"])
            query["continue"] = meta["continue"]

    async def watch(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", resource_version: str
    ) -> AsyncIterator[WatchEvent]:
        query = {
            "watch": "1",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(WATCH_SECONDS),
            "allowWatchBookmarks": "true",
        }
        if labels:
            query["labelSelector"] = labels
        timeout = aiohttp.ClientTimeout(total=WATCH_SECONDS + 30, sock_connect=self._timeout)
        response = await self._send("GET", _path(kind, namespace), query=query, limits=timeout)
        try:
            async for event in _events(response):
                yield event
        finally:
            connection = response.connection
            if connection is not None and connection.transport is not None:
                # TLS's farewell waits for the peer, past the life of an event loop that is ending.
                connection.transport.abort()
            response.close()

    async def create(self, kind: ResourceType, obj: JSONObject) -> JSONObject:
        return await self._call("POST", _path(kind, _namespace(obj)), body=obj, query={"fieldManager": FIELD_MANAGER})

    async def apply(self, kind: ResourceType, obj: JSONObject, *, force: bool = True) -> JSONObject:
        full = {"apiVersion": kind.api_version, "kind": kind.kind, **obj}
        return await self._call(
            "PATCH",
            _path(kind, _namespace(obj), obj["metadata"]["name"]),
            body=full,
            query={"fieldManager": FIELD_MANAGER, "force": str(force).lower()},
            content_type="application/apply-patch+yaml",
        )

    async def patch(self, kind: ResourceType, name: str, namespace: str, patch: JSONObject) -> JSONObject:
        return await self._merge(_path(kind, namespace, name), patch)

    async def patch_status(self, kind: ResourceType, name: str, namespace: str, patch: JSONObject) -> JSONObject:
        return await self._merge(_path(kind, namespace, name) + "/status", patch)

    async def delete(self, kind: ResourceType, name: str, namespace: str = "", *, uid: str = "") -> None:
        options: JSONObject = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            await self._call("DELETE", _path(kind, namespace, name), body=options)
        except NotFoundError:
            return

    async def server_version(self) -> str:
        return str((await self._call("GET", "/version"))["gitVersion"])

    async def close(self) -> None:
        await self._api.close()

    async def _merge(self, path: str, patch: JSONObject) -> JSONObject:
        return await self._call(
            "PATCH",
            path,
            body=patch,
            query={"fieldManager": FIELD_MANAGER},
            content_type="application/merge-patch+json",
        )

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: JSONObject | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> JSONObject:
        timeout = aiohttp.ClientTimeout(total=self._timeout)
        response = await self._send(method, path, body=body, query=query, content_type=content_type, limits=timeout)
        async with response:
            return cast("JSONObject", json.loads(await _read(response)))

    async def _send(
        self,
        method: str,
        path: str,
        *,
        limits: aiohttp.ClientTimeout,
        body: JSONObject | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        try:
            _, url, headers, _, _ = await self._api.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params=headers,
                auth_settings=["BearerToken"],
            )
            answer = await self._api.call_api(method, url, header_params=headers, body=body, _request_timeout=limits)
        except (aiohttp.ClientError, TimeoutError, OSError, ssl.SSLError) as error:
            raise UnreachableError(f"{method} {path}: {type(error).__name__}: {error}") from error
        response = cast("aiohttp.ClientResponse", answer.response)
        if response.status >= 300:
            async with response:
                raise _error(method, path, response.status, await _read(response))
        return response


async def _read(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await response.read()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise UnreachableError(f"{response.method} {response.url.path}: {type(error).__name__}: {error}") from error


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[WatchEvent]:
    try:
        async for line in response.content:
            raw = cast("dict[str, Any]", json.loads(line))
            if raw["type"] == "ERROR":
                status = raw["object"]
                raise _error("WATCH", response.url.path, int(status.get("code", 0)), json.dumps(status).encode())
            yield WatchEvent(raw["type"], raw["object"])
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise UnreachableError(f"WATCH {response.url.path}: {type(error).__name__}: {error}") from error
    except asyncio.IncompleteReadError as error:
        raise UnreachableError(f"WATCH {response.url.path}: the stream ended in mid-line") from error


def _error(method: str, path: str, status: int, body: bytes) -> KubeError:
    """The API server's Status object as one of our errors; its message already names the field and the fix."""
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = None
    details = parsed if isinstance(parsed, dict) else {}
    text = str(details.get("message") or body[:200].decode(errors="replace"))
    message = f"{method} {path}: {status}: {text}"
    if status == 409 and details.get("reason") == "AlreadyExists":
        return AlreadyExistsError(message, status=status)
    if status in _UNREACHABLE:
        return UnreachableError(message, status=status)
    return _BY_STATUS.get(status, KubeError)(message, status=status)


def _namespace(obj: JSONObject) -> str:
    return str(obj["metadata"].get("namespace", ""))


def _path(kind: ResourceType, namespace: str = "", name: str = "") -> str:
    base = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    if kind.namespaced and namespace:
        base += f"/namespaces/{namespace}"
    base += f"/{kind.plural}"
    return f"{base}/{name}" if name else base
