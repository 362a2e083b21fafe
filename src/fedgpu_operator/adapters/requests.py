"""Counts and times what the adapters ask of API servers, chain endpoints and the ledger, for the whole process.

As Prometheus' client libraries have it, the instruments stand where the requests are made, and every registry that
shows them may have them (`INSTRUMENTS`). No label holds a URL, a host, a name of an object, or a word of an answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Final, Literal

import aiohttp
from prometheus_client import Counter, Gauge, Histogram
from yarl import URL

SECONDS: Final = (0.005, 0.02, 0.1, 0.5, 2, 10, 60)
NO_ANSWER: Final = "<error>"
"""The code of a request that no response came to, as in client-go's own metrics."""
VERBS: Final = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}

API_REQUESTS: Final = Counter(
    "fedgpu_api_requests",
    "Requests to API servers (hub, or member for all of them together) by verb, kind and HTTP status; "
    "code <error>: no response came.",
    ["server", "verb", "kind", "code"],
    registry=None,
)
API_SECONDS: Final = Histogram(
    "fedgpu_api_request_duration_seconds",
    "From a request to an API server until its response begins; for watches until they are open.",
    ["server", "verb", "kind"],
    buckets=SECONDS,
    registry=None,
)
RPC_REQUESTS: Final = Counter(
    "fedgpu_rpc_requests",
    "JSON-RPC requests to single endpoints of the chain by outcome: ok, error (a JSON-RPC error), turned_away "
    "(not now, or HTTP 4xx or 5xx), no_answer.",
    ["method", "outcome"],
    registry=None,
)
RPC_SECONDS: Final = Histogram(
    "fedgpu_rpc_request_duration_seconds",
    "Duration of one JSON-RPC request to one endpoint, whatever comes of it.",
    ["method"],
    buckets=SECONDS,
    registry=None,
)
LEDGER_SECONDS: Final = Histogram(
    "fedgpu_ledger_call_duration_seconds",
    "Duration of a call to the ledger's database (write, read, or ping by the health loop), its wait for a turn "
    "included; answers from memory are not counted.",
    ["call"],
    buckets=SECONDS,
    registry=None,
)
LEDGER_BYTES: Final = Gauge(
    "fedgpu_ledger_size_bytes", "Size of the ledger's database as it was at the last ping.", registry=None
)
FINALIZED: Final = Gauge(
    "fedgpu_chain_finalized_block_timestamp_seconds",
    "Timestamp of the newest block that the endpoints agree is finalized, Unix time; NaN before it was read.",
    registry=None,
)
for _gauge in (LEDGER_BYTES, FINALIZED):
    _gauge.set(float("nan"))

INSTRUMENTS: Final = (API_REQUESTS, API_SECONDS, RPC_REQUESTS, RPC_SECONDS, LEDGER_SECONDS, LEDGER_BYTES, FINALIZED)


def counted(server: Literal["hub", "member"]) -> aiohttp.TraceConfig:
    """A hook for an aiohttp session that counts and times its requests to API servers of that sort."""

    async def begin(
        _session: aiohttp.ClientSession, context: SimpleNamespace, _sent: aiohttp.TraceRequestStartParams
    ) -> None:
        context.began = time.perf_counter()

    async def end(
        _session: aiohttp.ClientSession, context: SimpleNamespace, seen: aiohttp.TraceRequestEndParams
    ) -> None:
        note(context, seen.method, seen.url, str(seen.response.status))

    async def fail(
        _session: aiohttp.ClientSession, context: SimpleNamespace, seen: aiohttp.TraceRequestExceptionParams
    ) -> None:
        if not isinstance(seen.exception, asyncio.CancelledError):
            note(context, seen.method, seen.url, NO_ANSWER)

    def note(context: SimpleNamespace, method: str, url: URL, code: str) -> None:
        verb, kind = verb_and_kind(method, url)
        API_REQUESTS.labels(server, verb, kind, code).inc()
        API_SECONDS.labels(server, verb, kind).observe(time.perf_counter() - context.began)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(begin)
    trace.on_request_end.append(end)
    trace.on_request_exception.append(fail)
    return trace


def verb_and_kind(method: str, url: URL) -> tuple[str, str]:
    """Kubernetes' verb and the plural of the kind, with its subresource, of a request by its path.

    >>> verb_and_kind("PATCH", URL("https://hub/apis/fedgpu.dev/v1alpha1/namespaces/a/computejobs/b/status"))
    ('patch', 'computejobs/status')
    """
    parts = url.path.strip("/").split("/")
    if parts[0] not in ("api", "apis"):
        return "get", parts[0]
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        rest = rest[2:]
    plural, named, subresource = rest[0] if rest else "", len(rest) > 1, rest[2] if len(rest) > 2 else ""
    reads = "watch" if "watch" in url.query else "get" if named else "list"
    return VERBS.get(method, reads), f"{plural}/{subresource}" if subresource else plural


class RpcRequest:
    """One request that is under way; `outcome` is set by whoever reads the answer."""

    outcome = "no_answer"


@contextmanager
def rpc_request(method: str) -> Iterator[RpcRequest]:
    """Around one JSON-RPC request to one endpoint; one that is cancelled has no outcome."""
    request, began = RpcRequest(), time.perf_counter()
    try:
        yield request
    except asyncio.CancelledError:
        raise
    except BaseException:
        _note_rpc(method, request, began)
        raise
    _note_rpc(method, request, began)


def _note_rpc(method: str, request: RpcRequest, began: float) -> None:
    RPC_REQUESTS.labels(method, request.outcome).inc()
    RPC_SECONDS.labels(method).observe(time.perf_counter() - began)
