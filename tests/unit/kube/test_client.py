"""The client against a server that answers as a test says: failures a healthy API server does not show."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import pytest
from aiohttp import web

from fedgpu_operator.adapters.kube.client import KubeClient
from fedgpu_operator.errors import ConflictError, ForbiddenError, GoneError, KubeError, RejectedError, UnreachableError
from fedgpu_operator.ports import PODS

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], AbstractAsyncContextManager[KubeClient]]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, ForbiddenError),
        (403, ForbiddenError),
        (409, ConflictError),
        (410, GoneError),
        (418, KubeError),
        (422, RejectedError),
        (429, UnreachableError),
        (500, UnreachableError),
        (502, UnreachableError),
        (503, UnreachableError),
    ],
)
async def test_each_status_has_its_error(serve: Serve, status: int, error: type[KubeError]) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "message": "because"}, status=status)

    async with serve(answer) as client:
        with pytest.raises(error, match="because") as raised:
            await client.get(PODS, "x", "ns")
    assert raised.value.status == status
    assert type(raised.value) is error


async def test_an_answer_that_is_no_json_still_is_an_error_of_ours(serve: Serve) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=503, text="<html>bad gateway</html>")

    async with serve(answer) as client:
        with pytest.raises(UnreachableError, match="answered 503 without a Kubernetes status"):
            await client.get(PODS, "x", "ns")


async def test_a_list_that_expires_between_pages_is_gone(serve: Serve) -> None:
    async def answer(request: web.Request) -> web.Response:
        if "continue" in request.query:
            return web.json_response({"kind": "Status", "reason": "Expired"}, status=410)
        return web.json_response({"metadata": {"resourceVersion": "1", "continue": "more"}, "items": []})

    async with serve(answer) as client:
        with pytest.raises(GoneError):
            await client.list(PODS)


def _stream(*lines: bytes, cut: bool = False) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for line in lines:
            await response.write(line)
        if cut and request.transport is not None:
            request.transport.abort()
        return response

    return answer


ADDED = b'{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"2"}}}\n'


async def test_a_watch_that_is_too_old_is_gone(serve: Serve) -> None:
    expired = b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}\n'
    async with serve(_stream(ADDED, expired)) as client:
        events = client.watch(PODS, resource_version="1")
        assert (await anext(events)).object["metadata"]["name"] == "a"
        with pytest.raises(GoneError, match="too old"):
            await anext(events)


async def test_a_watch_that_the_server_ends_just_ends(serve: Serve) -> None:
    async with serve(_stream(ADDED)) as client:
        assert [event.type async for event in client.watch(PODS, resource_version="1")] == ["ADDED"]


async def test_a_watch_that_breaks_is_unreachable(serve: Serve) -> None:
    async with serve(_stream(ADDED, b'{"type":"MOD', cut=True)) as client:
        with pytest.raises(UnreachableError):
            async for _ in client.watch(PODS, resource_version="1"):
                pass
