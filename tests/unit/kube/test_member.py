"""The client of a stranger's API server: tighter bounds, clean texts, names that are names, and a budget."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from fedgpu_lab.pki import new_server_identity
from fedgpu_operator.adapters.kube.client import MEMBER, Allowance, Budget, KubeClient
from fedgpu_operator.adapters.kube.parser import ENVELOPE_BYTES
from fedgpu_operator.agent import KEPT
from fedgpu_operator.domain.text import is_clean
from fedgpu_operator.errors import (
    AnswerTooLargeError,
    BudgetExceededError,
    ForbiddenError,
    KubeError,
    ListTooLargeError,
    UnreachableError,
)
from fedgpu_operator.ports import BATCH_JOBS, NAMESPACES, NODES, PODS

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ODD = "\ud800\x1b[31m\x9b\u202e\x00"


@asynccontextmanager
async def member(
    answer: Callable[[web.Request], Any], *, allowance: Allowance | None = None, seconds: float = 15.0
) -> AsyncIterator[KubeClient]:
    """A client of a server that answers with that body: bytes, or anything as JSON."""

    async def handle(request: web.Request) -> web.StreamResponse:
        body = answer(request)
        if isinstance(body, web.StreamResponse):
            return body
        return web.Response(body=body if isinstance(body, bytes) else json.dumps(body).encode())

    async with serving(handle, allowance=allowance, seconds=seconds) as client:
        yield client


@asynccontextmanager
async def serving(
    handle: Handler, *, allowance: Allowance | None = None, seconds: float = 15.0
) -> AsyncIterator[KubeClient]:
    """A client of a server with that one handler."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    budget = Budget(allowance or Allowance(), time.monotonic())
    client = KubeClient.of_member(ApiClient(Configuration(host=f"http://{host}:{port}")), KEPT, budget)
    client._timeout = seconds
    try:
        yield client
    finally:
        await client.close()
        await runner.cleanup()


def pod(**meta: Any) -> dict[str, Any]:
    return {"metadata": {"name": "a", "namespace": "ns", "uid": "u", "resourceVersion": "7", **meta}, "status": {}}


def listed(*items: Any, **meta: Any) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": "7", **meta}, "items": list(items)}


def event(obj: dict[str, Any], kind: str = "ADDED") -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


async def watched(client: KubeClient) -> list[dict[str, Any]]:
    return [each.object async for each in client.watch(PODS, resource_version="1")]


async def gone_through(client: KubeClient) -> int:
    """How many objects there are, none of which is held."""
    return sum([len(items) async for items, _ in client.pages(PODS)])


# ---- bounds


async def test_each_call_takes_as_much_as_it_can_mean() -> None:
    small, large = b" " * 100_000, b" " * (MEMBER.object_bytes + 1)
    async with member(lambda _: b'{"gitVersion": "v1"}' + small) as client:
        with pytest.raises(AnswerTooLargeError, match="GET /version: the answer is larger than 65536 bytes"):
            await client.server_version()
    async with member(lambda _: json.dumps(pod()).encode() + small) as client:
        assert (await client.get(PODS, "a", "ns"))["metadata"]["name"] == "a"
    async with member(lambda _: json.dumps(pod()).encode() + large) as client:
        for call in (
            client.get(PODS, "a", "ns"),
            client.create(BATCH_JOBS, pod()),
            client.patch(BATCH_JOBS, "a", "ns", {}),
            client.delete(BATCH_JOBS, "a", "ns"),
        ):
            with pytest.raises(AnswerTooLargeError):
                await call
    async with member(lambda _: event(pod(padding="x" * MEMBER.object_bytes))) as client:
        with pytest.raises(AnswerTooLargeError, match="event"):
            await watched(client)
    async with member(lambda _: listed() | {"x": "y" * ENVELOPE_BYTES}) as client:
        with pytest.raises(AnswerTooLargeError):
            await client.list(PODS)
    async with member(lambda _: listed(pod(padding="x" * MEMBER.object_bytes))) as client:
        with pytest.raises(AnswerTooLargeError, match="an object is larger"):
            await client.list(PODS)


async def test_a_list_is_asked_for_in_small_pages_and_ends() -> None:
    asked: list[str] = []

    def answer(request: web.Request) -> Any:
        asked.append(request.query["limit"])
        return listed(*(pod(name=f"p{number}") for number in range(10_000)), **{"continue": "more"})

    async with member(answer) as client:
        with pytest.raises(ListTooLargeError, match=r"more than 16 MiB of memory for \d+ objects so far"):
            await client.list(PODS)
        assert set(asked) == {"250"}
        assert len(asked) < 4
        asked.clear()
        with pytest.raises(ListTooLargeError, match="more than 100000 objects"):
            await gone_through(client)
        assert len(asked) == 11


async def test_a_page_is_given_away_as_it_arrives_and_never_held() -> None:
    """An honest page of large objects is no trouble, and one without end ends at the bytes of a list."""
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"metadata": {}, "items": [{"metadata": {"name": "a"}}')
        while True:
            part = b',{"metadata": {"name": "a"}, "junk": "' + b"x" * 2**20 + b'"}'
            await response.write(part)
            sent += len(part)

    async with serving(answer) as client:
        client._limits = replace(client._limits, list_bytes=64 * 2**20)
        tracemalloc.start()
        try:
            with pytest.raises(ListTooLargeError, match=r"larger than 64 MiB, 6\d objects so far"):
                await gone_through(client)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 20 * 2**20, "a few objects, and what the connection buffers"


async def test_an_error_is_read_no_further_than_a_status_goes() -> None:
    body = json.dumps({"kind": "Status", "message": "x" * 2**20}).encode()
    async with member(lambda _: web.Response(status=403, body=body)) as client:
        with pytest.raises(ForbiddenError, match="without a Kubernetes status"):
            await client.get(PODS, "a", "ns")


@pytest.mark.parametrize("where", ["/version", "/api/v1/pods"])
async def test_a_drip_does_not_outlast_its_call(where: str) -> None:
    dripped = 0

    async def drip(request: web.Request) -> web.StreamResponse:
        nonlocal dripped
        response = web.StreamResponse(status=int(request.query.get("fieldSelector", "200")))
        await response.prepare(request)
        while True:
            await response.write(b" ")
            dripped += 1
            await asyncio.sleep(0.01)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", drip)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    client = KubeClient.of_member(ApiClient(Configuration(host=f"http://{host}:{port}")), KEPT)
    client._timeout = 0.3
    try:
        async with asyncio.timeout(10):
            with pytest.raises(UnreachableError):
                await (client.server_version() if where == "/version" else client.list(PODS))
            with pytest.raises(KubeError):
                await client.list(PODS, fields="403")
    finally:
        await client.close()
        await runner.cleanup()
    assert dripped


# ---- what is kept


async def test_only_what_is_read_is_kept_of_each_object() -> None:
    whole = pod(managedFields=[{"fieldsV1": {}}], labels={"app": "x", "fedgpu.dev/lease": "l"}, ownerReferences=[{}])
    whole["spec"] = {"volumes": [{}], "nodeName": "n", "containers": [{"name": "c", "env": [{"name": "PASSWORD"}]}]}
    kept = {
        "metadata": {
            "name": "a",
            "namespace": "ns",
            "uid": "u",
            "resourceVersion": "7",
            "labels": {"fedgpu.dev/lease": "l"},
        },
        "spec": {"nodeName": "n", "containers": [{"name": "c"}]},
        "status": {},
    }
    async with member(lambda request: event(whole) if "watch" in request.query else listed(whole)) as client:
        assert (await client.list(PODS))[0] == [kept]
        assert await watched(client) == [kept]
    async with member(lambda _: whole) as client:
        assert await client.get(PODS, "a", "ns") == kept


# ---- texts


async def test_no_odd_word_comes_in() -> None:
    state = {"waiting": {"reason": f"ErrImagePull{ODD}", "message": f"cannot pull {ODD}"}}
    odd = pod(labels={"fedgpu.dev/lease": "l", "fedgpu.dev/odd": ODD, f"fedgpu.dev/{ODD}": "x"})
    odd["status"] = {"message": ODD, "containerStatuses": [{"name": f"main{ODD}", "state": state}]}

    def answer(request: web.Request) -> Any:
        if "watch" in request.query:
            return event(odd)
        return listed(odd) if request.path == "/api/v1/pods" else odd

    async with member(answer) as client:
        (found,), _ = await client.list(PODS)
        assert await watched(client) == [found]
        assert await client.get(PODS, "a", "ns") == found
        assert await client.create(PODS, pod()) == found
    assert is_clean(json.dumps(found, ensure_ascii=False))
    assert found["status"]["containerStatuses"][0]["state"]["waiting"]["message"].startswith("cannot pull \ufffd")
    assert found["metadata"]["labels"] == {"fedgpu.dev/lease": "l"}, "a label that is altered is another label"


@pytest.mark.parametrize("kind", ["status", "event"])
async def test_no_odd_word_comes_in_with_an_error(kind: str) -> None:
    status = {"kind": "Status", "code": 403, "reason": ODD, "message": f"no {ODD}\nno"}

    def answer(request: web.Request) -> Any:
        if kind == "event":
            return event(status, "ERROR")
        return web.Response(status=403, body=json.dumps(status).encode())

    async with member(answer) as client:
        with pytest.raises(ForbiddenError, match="403: no ") as raised:
            await watched(client)
    assert is_clean(str(raised.value))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("field", ["name", "namespace", "uid", "resourceVersion"])
@pytest.mark.parametrize("value", [ODD, "a b", "a\nb", "x" * 254, "ä", 7, ["a"], {"a": 1}])
async def test_what_identifies_an_object_is_refused_and_never_altered(field: str, value: object) -> None:
    odd = pod(**{field: value})

    def answer(request: web.Request) -> Any:
        if "watch" in request.query:
            return event(odd)
        return listed(odd) if request.path == "/api/v1/pods" else odd

    async with member(answer) as client:
        for call in (client.list(PODS), watched(client), client.get(PODS, "a", "ns"), client.create(PODS, pod())):
            with pytest.raises(UnreachableError, match="metadata") as raised:
                await call
            assert is_clean(str(raised.value))


async def test_only_what_was_sent_without_a_name_may_come_back_without_one() -> None:
    """A review of access has none; an object that lost its name on the way is no answer."""
    async with member(lambda _: {"metadata": {}, "status": {"allowed": True}}) as client:
        assert (await client.create(BATCH_JOBS, {"metadata": {}}))["metadata"]["name"] == ""
        with pytest.raises(UnreachableError, match="without a name"):
            await client.create(BATCH_JOBS, pod())


@pytest.mark.parametrize("version", [ODD, "v1 35", "x" * 254, ["v1"], {"a": 1}])
async def test_a_version_is_a_word(version: object) -> None:
    async with member(lambda _: {"gitVersion": version}) as client:
        with pytest.raises(UnreachableError, match="gitVersion"):
            await client.server_version()


@pytest.mark.parametrize("part", ["x", 1, None, [], ["x"], True, {"a": ["b"]}])
async def test_a_field_of_another_type_is_not_there(part: object) -> None:
    odd = {"metadata": pod()["metadata"] | {"labels": part}, "spec": part, "status": part}
    async with member(lambda _: listed(odd)) as client:
        for kind in (PODS, BATCH_JOBS, NODES, NAMESPACES):
            (found,), _ = await client.list(kind)
            assert found["metadata"]["name"] == "a"
            assert all(isinstance(each, dict) for each in found.values())


# ---- budget


async def test_what_has_used_up_its_minute_is_not_asked_again() -> None:
    asked = 0

    def answer(request: web.Request) -> Any:
        nonlocal asked
        asked += 1
        return json.dumps(pod()).encode() + b" " * 60_000

    async with member(answer, allowance=Allowance(received=100_000)) as client:
        await client.get(PODS, "a", "ns")
        with pytest.raises(BudgetExceededError):
            await client.get(PODS, "a", "ns")
        for _ in range(3):
            with pytest.raises(BudgetExceededError, match="jobs are left alone"):
                await client.get(PODS, "a", "ns")
            with pytest.raises(BudgetExceededError):
                await watched(client)
    assert asked == 2


async def test_many_small_events_are_paid_for_as_well() -> None:
    async with member(lambda _: event(pod()) * 5000, allowance=Allowance(seconds=0.2)) as client:
        with pytest.raises(BudgetExceededError):
            await watched(client)


async def test_the_events_of_one_member_leave_the_loop_to_others() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    async with member(lambda _: event(pod()) * 20_000) as client:
        events = client.watch(PODS, resource_version="1")
        await anext(events)
        ticking = asyncio.create_task(tick())
        async for _ in events:
            pass
        ticking.cancel()
    assert ticks > 20


async def test_a_connection_over_tls_holds_no_large_buffer(tmp_path: Path) -> None:
    """A thousand idle members have three each; asyncio alone would make a quarter of a mebibyte for every one."""
    identity = new_server_identity(tmp_path)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(identity.cert_file, identity.key_file)
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=served)
    port = server.sockets[0].getsockname()[1]
    asked = ssl.create_default_context(cadata=identity.ca_pem)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        ends = [await asyncio.open_connection("127.0.0.1", port, ssl=asked) for _ in range(8)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    for _, writer in ends:
        writer.transport.abort()
    server.close()
    assert (after - before) / len(ends) < 2 * 64 * 1024, "both ends are in this process"
