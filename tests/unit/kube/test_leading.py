"""What would change something on an API server leaves the process only while it leads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import pytest
from aiohttp import web

from fedgpu_operator.adapters.kube.client import KubeClient
from fedgpu_operator.errors import NotLeaderError
from fedgpu_operator.ports import PODS

Serve = Callable[..., AbstractAsyncContextManager[KubeClient]]
Call = Callable[[KubeClient], Awaitable[object]]

POD: Final[dict[str, Any]] = {"metadata": {"name": "a", "namespace": "ns", "resourceVersion": "1"}}
CHANGES: Final[dict[str, Call]] = {
    "create": lambda kube: kube.create(PODS, POD),
    "try_create": lambda kube: kube.try_create(PODS, POD),
    "apply": lambda kube: kube.apply(PODS, POD),
    "patch": lambda kube: kube.patch(PODS, "a", "ns", {}),
    "patch_status": lambda kube: kube.patch_status(PODS, "a", "ns", {}),
    "delete": lambda kube: kube.delete(PODS, "a", "ns"),
}
READS: Final[dict[str, Call]] = {
    "get": lambda kube: kube.get(PODS, "a", "ns"),
    "list": lambda kube: kube.list(PODS),
    "watch": lambda kube: anext(aiter(kube.watch(PODS, resource_version="1")), None),
    "server_version": lambda kube: kube.server_version(),
}


class Server:
    """Counts requests by method and answers each with the same."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.method)
        if "watch" in request.query:
            return web.Response()
        listed: dict[str, Any] = {"items": []} if request.path.endswith("/pods") and request.method == "GET" else {}
        return web.json_response({**POD, **listed, "gitVersion": "v1.35.0"})


class Leader:
    """Leads as long as it is told so; `checks` counts how often it was asked."""

    def __init__(self, *answers: bool) -> None:
        self.answers, self.checks = list(answers), 0

    def __call__(self) -> None:
        self.checks += 1
        if not (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]):
            raise NotLeaderError("no")


def test_every_call_of_a_client_is_here() -> None:
    public = {name for name, what in vars(KubeClient).items() if callable(what) and not name.startswith("_")}
    assert public == CHANGES.keys() | READS.keys() | {"pages", "close"}


@pytest.mark.parametrize("call", CHANGES.values(), ids=list(CHANGES))
async def test_without_the_lease_nothing_that_changes_something_is_sent(serve: Serve, call: Call) -> None:
    server = Server()
    async with serve(server.answer, leads=Leader(False)) as kube:
        with pytest.raises(NotLeaderError):
            await call(kube)
        assert server.asked == []


@pytest.mark.parametrize("call", CHANGES.values(), ids=list(CHANGES))
async def test_with_it_everything_is(serve: Serve, call: Call) -> None:
    server = Server()
    async with serve(server.answer, leads=Leader(True)) as kube:
        await call(kube)
        assert len(server.asked) == 1


@pytest.mark.parametrize("call", READS.values(), ids=list(READS))
async def test_reading_is_everybodys(serve: Serve, call: Call) -> None:
    server, leader = Server(), Leader(False)
    async with serve(server.answer, leads=leader) as kube:
        await call(kube)
        assert server.asked == ["GET"]
        assert leader.checks == 0


@pytest.mark.parametrize("warm", [False, True], ids=["a new connection", "a connection that is open"])
async def test_it_is_asked_again_when_there_is_a_connection(serve: Serve, warm: bool) -> None:
    """A process may be stopped while it connects."""
    server, leader = Server(), Leader(True, False)
    async with serve(server.answer, leads=leader) as kube:
        if warm:
            await kube.get(PODS, "a", "ns")
            await asyncio.sleep(0)
        asked = len(server.asked)
        with pytest.raises(NotLeaderError):
            await kube.patch(PODS, "a", "ns", {})
        assert leader.checks == 2
        assert len(server.asked) == asked
