"""A typed client for one API server on top of `kubernetes.aio`'s transport; maps every failure to the error tree."""

from __future__ import annotations

import asyncio
import time
from asyncio.sslproto import SSLProtocol
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, Self, TypeAlias, TypeVar, cast
from urllib.parse import quote, urlencode

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from kubernetes.aio.client import ApiClient

from fedgpu_operator.adapters.kube.answers import (
    checked,
    only_leading,
    read_body,
    read_error,
    read_events,
    read_pieces,
    refuse_redirects,
    unreachable,
)
from fedgpu_operator.adapters.kube.parser import (
    INLINE_BYTES,
    PIECE_BYTES,
    Keep,
    PageReader,
    ParseRules,
    off_the_loop,
    parse_object,
)
from fedgpu_operator.adapters.requests import counted
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.domain.text import is_name
from fedgpu_operator.errors import (
    AnswerTooLargeError,
    BudgetExceededError,
    KubeError,
    ListTooLargeError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from fedgpu_operator.ports import LeaderCheck, Listed, ResourceType, WatchEvent, always
from fedgpu_operator.reflector import weight

MINUTE: Final = 60.0
REOPENS_AT: Final = 0.5
"""Share of a minute's allowance that must be there again before calls are let through: no flicker at the edge."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """Of one member, per minute: bytes received, and seconds of our processor for parsing them.

    30,000 pods and 5,000 nodes are about 290 MB and 6 to 10 seconds for one whole count, and the agent counts so large
    a member once in a minute or two: the default lets it through with half to spare. Bytes are read and let go, so
    that it is seconds that bound what a member costs.
    """

    received: int = 1024 * 2**20
    seconds: float = 20.0


@dataclass(slots=True)
class _Bucket:
    """Full at first, refilled evenly within a minute, and in debt after a spending that nobody could foresee."""

    full: float
    level: float
    at: float

    def refill(self, now: float) -> None:
        self.level = min(self.full, self.level + self.full * max(0.0, now - self.at) / MINUTE)
        self.at = max(self.at, now)


class Budget:
    """One member's two token buckets. Every `now` is seconds of one monotonic clock."""

    def __init__(self, allowance: Allowance, now: float) -> None:
        self.allowance = allowance
        self._received = _Bucket(allowance.received, allowance.received, now)
        self._seconds = _Bucket(allowance.seconds, allowance.seconds, now)
        self._closed = False

    def spend(self, now: float, *, received: int = 0, seconds: float = 0.0) -> None:
        """Take that off; raises BudgetExceededError where it was more than there was, as does `check` from then on."""
        for bucket, amount in ((self._received, received), (self._seconds, seconds)):
            bucket.refill(now)
            bucket.level -= amount
        self.check(now)

    def check(self, now: float) -> None:
        """Raises BudgetExceededError from when an allowance was used up until half of it has refilled."""
        buckets = (self._received, self._seconds)
        for bucket in buckets:
            bucket.refill(now)
        if any(bucket.level < 0 for bucket in buckets):
            self._closed = True
        elif all(bucket.level >= REOPENS_AT * bucket.full for bucket in buckets):
            self._closed = False
        if self._closed:
            raise BudgetExceededError(self._why())

    def _why(self) -> str:
        """Without a figure that changes by the second: it stands in a condition."""
        limit = self.allowance
        return (
            f"the member sent more than {limit.received // 2**20} MiB, or what took more than {limit.seconds:g} s to "
            "parse, within a minute: it is not asked again before half of that has refilled; its jobs are left alone"
        )


T = TypeVar("T")
Objects: TypeAlias = list[JSONObject]

FIELD_MANAGER: Final = "fedgpu-operator"
WATCH_SECONDS: Final = 290
"""The server ends the watch after this many seconds; below the 5 minutes of idle that common proxies allow."""
QUIET_SECONDS: Final = 150
"""A watch that is silent for so long is dead: servers send a bookmark about once a minute."""
TLS_BUFFER_BYTES: Final = 32 * 2**10
"""Two records of TLS. asyncio makes a buffer of 256 KiB, filled with zeros, for every connection: with three of them
per member, a thousand idle members would hold 0.7 GiB for nothing."""
SSLProtocol.max_size = TLS_BUFFER_BYTES  # of the whole process: there is no other way to set it

OBJECT_SECONDS: Final = 20e-6
"""What is taken off a budget for each object of a list besides its parsing: what is done with it costs time, too."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server may make us hold and wait for; a list is all of its pages together.

    The defaults are for the hub, whose API server is our own, and still only a server.
    """

    version_bytes: int = 64 * 2**10
    object_bytes: int = 8 * 2**20
    page_size: int = 500
    """Asked for at once; client-go's own default."""
    list_bytes: int = 256 * 2**20
    list_objects: int = 1_000_000
    list_pages: int = 400
    list_seconds: float = 120.0
    held_bytes: float = float("inf")
    """Memory, about, that the objects of a list may take that is held as a whole."""
    buffer_bytes: int = 2 * 2**20
    """Of one connection; it may hold twice as much."""


MEMBER: Final = Limits(
    object_bytes=2 * 2**20,  # etcd takes 1.5 MiB, and JSON may be longer than what is stored
    page_size=250,
    list_bytes=512 * 2**20,
    list_objects=100_000,
    held_bytes=16 * 2**20,
    buffer_bytes=256 * 2**10,
)
"""For the API servers of strangers."""


class _Connector(aiohttp.TCPConnector):
    """Cuts each connection that is not kept for the next call.

    TLS's farewell waits 30 s for a peer that does not answer it: past `close`, and past the end of an event loop.
    """

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        should_close = should_close or protocol.should_close
        if should_close:
            protocol.abort()
        super()._release(key, protocol, should_close=should_close)


class KubeClient:
    """Implements `ports.Kube`; owns its `ApiClient`, which has asked nothing yet, and closes it.

    It follows no redirect and unpacks nothing, whoever the server is; `timeout` bounds one call in seconds. Of a kind
    in `keeps` only that stays of each object. With a `budget` each call that it does not cover raises
    BudgetExceededError. What would change something raises NotLeaderError, and is not sent, unless `leads` lets it.
    """

    def __init__(
        self,
        api: ApiClient,
        *,
        timeout: float = 15.0,
        limits: Limits | None = None,
        keeps: Mapping[ResourceType, Keep] | None = None,
        cleans: bool = False,
        budget: Budget | None = None,
        leads: LeaderCheck = always,
    ) -> None:
        self._api = api
        self._timeout = timeout
        self._limits = limits or Limits()
        self._keeps = keeps or {}
        self._cleans = cleans
        self._budget = budget
        self._one_large = asyncio.Semaphore(1)
        rest = api.rest_client
        connector = partial(_Connector, limit=rest.maxsize, ssl=rest.ssl_context)
        rest._create_connector = connector  # type: ignore[method-assign]  # noqa: SLF001  # which it names for this
        configuration = api.configuration
        # Only of members texts are cleaned.
        server: Literal["hub", "member"] = "member" if cleans else "hub"
        hooks = [refuse_redirects(), only_leading(leads), counted(server)]
        configuration.trace_configs = [*(configuration.trace_configs or []), *hooks]
        configuration.client_session_kwargs = {
            **(configuration.client_session_kwargs or {}),
            "auto_decompress": False,
            "read_bufsize": self._limits.buffer_bytes,
        }

    @classmethod
    def of_member(
        cls,
        api: ApiClient,
        keeps: Mapping[ResourceType, Keep],
        budget: Budget | None = None,
        leads: LeaderCheck = always,
    ) -> KubeClient:
        """A client for the API server of a stranger: tighter limits, clean texts, and a budget, a full one if none."""
        budget = budget or Budget(Allowance(), time.monotonic())
        return cls(api, limits=MEMBER, keeps=keeps, cleans=True, budget=budget, leads=leads)

    async def get(self, kind: ResourceType, name: str, namespace: str = "") -> JSONObject:
        return await self._call("GET", _path(kind, namespace, name), kind)

    async def list(self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = "") -> Listed:
        items: list[JSONObject] = []
        version, held, most = "", 0, self._limits.held_bytes
        async for found, at in self.pages(kind, namespace, labels=labels, fields=fields):
            items.extend(found)
            version = at
            if most < float("inf"):
                held += sum(map(weight, found))
                if held > most:
                    text = f"{most // 2**20:.0f} MiB of memory for {len(items)} objects so far"
                    raise ListTooLargeError(f"GET {_path(kind, namespace)}: the list takes more than {text}")
        return items, version

    async def pages(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Listed]:
        query: dict[str, str] = {"limit": str(self._limits.page_size)}
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        path = _path(kind, namespace)
        walk = _Walk(path, self._limits, self._timeout)
        for _ in range(self._limits.list_pages):
            reader = PageReader(self._reading(kind))
            piece: Objects = []
            async for items in self._page(walk, query, reader):
                if piece:
                    yield piece, ""
                piece = [checked(item, f"GET {path}", named=True) for item in items]
            # The last one is given away with the version, which may stand behind the objects.
            yield piece, _word(reader, "resourceVersion", path)
            following = _word(reader, "continue", path)
            if not following:
                return
            query = {**query, "continue": following}
        pages = self._limits.list_pages
        raise ListTooLargeError(f"GET {path}: the list has more than {pages} pages, {walk.objects} objects so far")

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
            async for event in read_events(response, self._reading(kind), self._spend):
                yield event
        finally:
            response.close()

    async def create(self, kind: ResourceType, obj: JSONObject) -> JSONObject:
        query = {"fieldManager": FIELD_MANAGER}
        return await self._call("POST", _path(kind, _namespace(obj)), kind, body=obj, query=query)

    async def try_create(self, kind: ResourceType, obj: JSONObject) -> JSONObject:
        """What `create` would store, judged to the end and stored nowhere; unknown fields are refused."""
        query = {"fieldManager": FIELD_MANAGER, "dryRun": "All", "fieldValidation": "Strict"}
        return await self._call("POST", _path(kind, _namespace(obj)), kind, body=obj, query=query)

    async def apply(self, kind: ResourceType, obj: JSONObject, *, force: bool = True) -> JSONObject:
        full = {"apiVersion": kind.api_version, "kind": kind.kind, **obj}
        return await self._call(
            "PATCH",
            _path(kind, _namespace(obj), obj["metadata"]["name"]),
            kind,
            body=full,
            query={"fieldManager": FIELD_MANAGER, "force": str(force).lower()},
            content_type="application/apply-patch+yaml",
        )

    async def patch(self, kind: ResourceType, name: str, namespace: str, patch: JSONObject) -> JSONObject:
        return await self._merge(_path(kind, namespace, name), kind, patch)

    async def patch_status(self, kind: ResourceType, name: str, namespace: str, patch: JSONObject) -> JSONObject:
        return await self._merge(_path(kind, namespace, name) + "/status", kind, patch)

    async def delete(
        self, kind: ResourceType, name: str, namespace: str = "", *, uid: str = "", resource_version: str = ""
    ) -> None:
        options: JSONObject = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        if wanted := {name: value for name, value in preconditions.items() if value}:
            options["preconditions"] = wanted
        try:
            await self._answer("DELETE", _path(kind, namespace, name), self._reading(), body=options)
        except NotFoundError:
            return

    async def server_version(self) -> str:
        most = self._limits.version_bytes
        found = (await self._answer("GET", "/version", self._reading(most=most))).get("gitVersion", "")
        if found and not is_name(found):
            raise UnreachableError("GET /version: sent a gitVersion that is not one")
        return str(found)

    async def close(self) -> None:
        pool: aiohttp.ClientSession | None = self._api.rest_client.pool_manager
        if pool is not None and pool.connector is not None:
            # TLS's farewell waits for the peer, which may never answer.
            await pool.connector.close(abort_ssl=True)
        await self._api.close()
        # What was aborted, a handshake included, closes its socket in the next turn of the loop.
        await asyncio.sleep(0)

    # ---- inside

    async def _merge(self, path: str, kind: ResourceType, patch: JSONObject) -> JSONObject:
        return await self._call(
            "PATCH",
            path,
            kind,
            body=patch,
            query={"fieldManager": FIELD_MANAGER},
            content_type="application/merge-patch+json",
        )

    async def _call(
        self,
        method: str,
        path: str,
        kind: ResourceType,
        *,
        body: JSONObject | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> JSONObject:
        """The object that answers; it has a name, unless it answers one that has none, as reviews have."""
        reading = self._reading(kind)
        answer = await self._answer(method, path, reading, body=body, query=query, content_type=content_type)
        nameless = method == "POST" and body is not None and not body["metadata"].get("name")
        return checked(answer, f"{method} {path}", named=not nameless)

    async def _answer(
        self,
        method: str,
        path: str,
        reading: ParseRules,
        *,
        body: JSONObject | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> JSONObject:
        """Any one JSON object that answers."""
        limits = aiohttp.ClientTimeout(total=self._timeout)
        response = await self._send(method, path, body=body, query=query, content_type=content_type, limits=limits)
        async with response, _Turn(self._one_large) as turn:
            held = await read_body(response, reading.object_bytes, self._spend, turn.grown)
            none = f"{method} {path}: answered {response.status} without a Kubernetes object"
            return await self._parsed(lambda: parse_object(held, reading), len(held), none)

    async def _page(self, walk: _Walk, query: Mapping[str, str], reader: PageReader) -> AsyncIterator[Objects]:
        """The objects of one page as they arrive; the text of no more than one of them, and a piece, is held."""
        walk.begin_page()
        # How long the server may take is bounded here, without what is done with the objects in between.
        limits = aiohttp.ClientTimeout(total=None)
        none = f"GET {walk.path}: sent no list of objects"
        response = await walk.wait(self._send("GET", walk.path, query=query, limits=limits))
        async with response, _Turn(self._one_large) as turn:
            try:
                async for piece, last in read_pieces(response, PIECE_BYTES, self._spend, walk.wait):
                    walk.received(len(piece))
                    size = reader.held + len(piece)
                    await turn.grown(size)
                    items = await self._parsed(partial(reader.feed, piece, last=last), size, none)
                    walk.gone_through(len(items))
                    self._spend(seconds=len(items) * OBJECT_SECONDS)
                    if items:
                        yield items
                    await asyncio.sleep(0)
            except KubeError:
                response.close()
                raise

    async def _parsed(self, parse: Callable[[], T], size: int, none: str) -> T:
        """What a body was parsed to; `none` is said of one that is something else."""
        try:
            parsed, seconds = await off_the_loop(parse, size, queued=self._budget is not None)
        except AnswerTooLargeError as error:
            raise AnswerTooLargeError(f"{none}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise UnreachableError(none) from error
        self._spend(seconds=seconds)
        return parsed

    def _reading(self, kind: ResourceType | None = None, *, most: int = 0) -> ParseRules:
        keep = self._keeps.get(kind) if kind is not None else None
        limits = self._limits
        return ParseRules(most or limits.object_bytes, self._cleans, keep)

    def _spend(self, *, received: int = 0, seconds: float = 0.0) -> None:
        if self._budget is not None:
            self._budget.spend(time.monotonic(), received=received, seconds=seconds)

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
        if self._budget is not None:
            try:
                self._budget.check(time.monotonic())
            except BudgetExceededError as error:
                error.sent = False
                raise
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
            raise unreachable(f"{method} {path}", error) from error
        response = cast("aiohttp.ClientResponse", answer.response)
        if response.status >= 300:
            async with response:
                raise await read_error(method, path, response, self._spend)
        return response

    async def _headers(self) -> dict[str, str]:
        """Who asks, with the credentials of now: a token may be another by the next request."""
        headers: dict[str, str] = dict(self._api.default_headers)
        for each in (await self._api.configuration.auth_settings()).values():
            if each["value"]:
                headers[each["key"]] = each["value"]
        return headers


class _Walk:
    """How far one list may still go: its bytes, its objects, and the time that its server takes for them."""

    def __init__(self, path: str, limits: Limits, call_seconds: float) -> None:
        self.path = path
        self.objects = 0
        self._limits = limits
        self._call_seconds = self._call_left = call_seconds
        self._bytes = 0
        self._list_left = limits.list_seconds

    def begin_page(self) -> None:
        """The next page is a call of its own."""
        self._call_left = self._call_seconds

    async def wait(self, answer: Awaitable[T]) -> T:
        """What the server answers, if it comes in time; raises UnreachableError."""
        begun = time.monotonic()
        try:
            async with asyncio.timeout(min(self._call_left, self._list_left)):
                return await answer
        except TimeoutError as error:
            if self._list_left <= self._call_left:
                text = f"the list took more than {self._limits.list_seconds:g} s"
            else:
                text = f"no whole page within {self._call_seconds:g} s"
            raise UnreachableError(f"GET {self.path}: {text}") from error
        finally:
            spent = time.monotonic() - begun
            self._call_left -= spent
            self._list_left -= spent

    def received(self, size: int) -> None:
        """Count bytes; raises ListTooLargeError."""
        self._bytes += size
        if self._bytes > (most := self._limits.list_bytes):
            text = f"the list is larger than {most / 2**20:g} MiB, {self.objects} objects so far"
            raise ListTooLargeError(f"GET {self.path}: {text}")

    def gone_through(self, count: int) -> None:
        """Count objects; raises ListTooLargeError."""
        self.objects += count
        if self.objects > (most := self._limits.list_objects):
            raise ListTooLargeError(f"GET {self.path}: the list has more than {most} objects, {self.objects} so far")


class _Turn:
    """Lets one call of a client at a time go on with a large body, from where it becomes large until it is parsed."""

    def __init__(self, gate: asyncio.Semaphore) -> None:
        self._gate = gate
        self._holds = False

    async def grown(self, size: int) -> None:
        """The body has that many bytes now."""
        if size > INLINE_BYTES and not self._holds:
            await self._gate.acquire()
            self._holds = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._holds:
            self._gate.release()


def _word(page: PageReader, field: str, path: str) -> str:
    """A field of a list's metadata that leads on; raises UnreachableError for what cannot."""
    value = (page.metadata or {}).get(field) or ""
    if not isinstance(value, str) or not value.isprintable():
        raise UnreachableError(f"GET {path}: sent a list whose metadata.{field} is not valid")
    return value


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
