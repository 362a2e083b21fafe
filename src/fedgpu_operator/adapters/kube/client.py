"""A typed client for one API server on top of `kubernetes.aio`'s transport; maps every failure to the error tree."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio.client import ApiClient

from fedgpu_operator.adapters.kube.answers import checked, read_error, read_events, read_object, refuse_redirects, told
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.errors import NotFoundError, RejectedError, UnreachableError
from fedgpu_operator.ports import Listed, ResourceType, WatchEvent

FIELD_MANAGER: Final = "fedgpu-operator"
PAGE_SIZE: Final = 500
"""client-go's own default page size for pagers."""
WATCH_SECONDS: Final = 290
"""The server ends the watch after this many seconds; below the 5 minutes of idle that common proxies allow."""
QUIET_SECONDS: Final = 150
"""A watch that is silent for so long is dead: servers send a bookmark about once a minute."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server may make us hold and wait for; a list is all of its pages together."""

    answer_bytes: int = 64 * 2**20
    list_bytes: int = 256 * 2**20
    list_pages: int = 400
    list_seconds: float = 120.0


class KubeClient:
    """Implements `ports.Kube`; owns its `ApiClient`, which has asked nothing yet, and closes it.

    It follows no redirect and unpacks nothing, whoever the server is; `timeout` bounds one call in seconds.
    """

    def __init__(self, api: ApiClient, *, timeout: float = 15.0, limits: Limits | None = None) -> None:
        self._api = api
        self._timeout = timeout
        self._limits = limits or Limits()
        configuration = api.configuration
        configuration.trace_configs = [*(configuration.trace_configs or []), refuse_redirects()]
        configuration.client_session_kwargs = {**(configuration.client_session_kwargs or {}), "auto_decompress": False}

    async def get(self, kind: ResourceType, name: str, namespace: str = "") -> JSONObject:
        return await self._call("GET", _path(kind, namespace, name))

    async def list(self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = "") -> Listed:
        items: list[JSONObject] = []
        version = ""
        async for found, at in self.pages(kind, namespace, labels=labels, fields=fields):
            items.extend(found)
            version = at
        return items, version

    async def pages(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Listed]:
        query: dict[str, str] = {"limit": str(PAGE_SIZE)}
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        path = _path(kind, namespace)
        room, patience = self._limits.list_bytes, self._limits.list_seconds
        for _ in range(self._limits.list_pages):
            begun = time.monotonic()
            try:
                # Only the server's time counts, not what is done with a page.
                async with asyncio.timeout(patience):
                    most = min(room, self._limits.answer_bytes)
                    page, size = await self._sized_call("GET", path, query=query, most=most)
            except TimeoutError as error:
                text = f"GET {path}: the list took more than {self._limits.list_seconds:g} s"
                raise UnreachableError(text) from error
            room, patience = room - size, patience - (time.monotonic() - begun)
            meta = checked(page, f"GET {path}")["metadata"]
            yield _items(page, path), str(meta.get("resourceVersion", ""))
            if not meta.get("continue"):
                return
            query = {**query, "continue": str(meta["continue"])}
        raise UnreachableError(f"GET {path}: the list has more than {self._limits.list_pages} pages")

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
        path = _path(kind, namespace)
        limits = aiohttp.ClientTimeout(total=WATCH_SECONDS + 30, sock_connect=self._timeout, sock_read=QUIET_SECONDS)
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._send("GET", path, query=query, limits=limits)
        except TimeoutError as error:
            raise UnreachableError(f"WATCH {path}: no answer within {self._timeout:g} s") from error
        try:
            async for event in read_events(response):
                yield event
        finally:
            connection = response.connection
            if connection is not None and connection.transport is not None:
                # TLS's farewell waits for the peer, past the life of an event loop that is ending.
                connection.transport.abort()
            response.close()

    async def create(self, kind: ResourceType, obj: JSONObject) -> JSONObject:
        return await self._call("POST", _path(kind, _namespace(obj)), body=obj, query={"fieldManager": FIELD_MANAGER})

    async def try_create(self, kind: ResourceType, obj: JSONObject) -> JSONObject:
        """What `create` would store, judged to the end and stored nowhere; unknown fields are refused."""
        query = {"fieldManager": FIELD_MANAGER, "dryRun": "All", "fieldValidation": "Strict"}
        return await self._call("POST", _path(kind, _namespace(obj)), body=obj, query=query)

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
        return str((await self._call("GET", "/version")).get("gitVersion", ""))

    async def close(self) -> None:
        pool: aiohttp.ClientSession | None = self._api.rest_client.pool_manager
        if pool is not None and pool.connector is not None:
            # TLS's farewell waits for the peer, which may never answer.
            await pool.connector.close(abort_ssl=True)
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
        answer, _ = await self._sized_call(
            method, path, body=body, query=query, content_type=content_type, most=self._limits.answer_bytes
        )
        return answer

    async def _sized_call(
        self,
        method: str,
        path: str,
        *,
        most: int,
        body: JSONObject | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> tuple[JSONObject, int]:
        timeout = aiohttp.ClientTimeout(total=self._timeout)
        response = await self._send(method, path, body=body, query=query, content_type=content_type, limits=timeout)
        async with response:
            return await read_object(response, most)

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
        sent = {"Accept": "application/json", "Accept-Encoding": "identity", "Content-Type": content_type}
        try:
            headers = await self._headers() | sent
            url = self._api.configuration.host + path
            if query:
                url += "?" + urlencode(query, quote_via=quote)
            answer = await self._api.rest_client.request(
                method, url, headers=headers, body=body, _request_timeout=limits
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise UnreachableError(f"{method} {path}: {told(error)}") from error
        response = cast("aiohttp.ClientResponse", answer.response)
        if response.status >= 300:
            async with response:
                raise await read_error(method, path, response)
        return response

    async def _headers(self) -> dict[str, str]:
        """Who asks, with the credentials of now: a token may be another by the next request."""
        headers: dict[str, str] = dict(self._api.default_headers)
        for each in (await self._api.configuration.auth_settings()).values():
            if each["value"]:
                headers[each["key"]] = each["value"]
        return headers


def _items(page: JSONObject, path: str) -> list[JSONObject]:
    found = page.get("items") or []
    if not isinstance(found, list):
        raise UnreachableError(f"GET {path}: sent a list without items")
    return [checked(item, f"GET {path}") for item in found]


def _namespace(obj: JSONObject) -> str:
    return str(obj["metadata"].get("namespace", ""))


def _path(kind: ResourceType, namespace: str = "", name: str | None = None) -> str:
    """The path of a collection, or with a name that of one object."""
    parts = ["apis", kind.group, kind.version] if kind.group else ["api", kind.version]
    if kind.namespaced and namespace:
        parts += ["namespaces", namespace]
    parts.append(kind.plural)
    if name is not None:
        parts.append(name)
    return "".join(f"/{_part(part)}" for part in parts)


def _part(text: str) -> str:
    """One segment of a path, which can be nothing but one segment; raises RejectedError for what never can be."""
    if text in {"", ".", ".."}:
        raise RejectedError(f"{text!r} is not a name: no object can be called so")
    return quote(text, safe="")
