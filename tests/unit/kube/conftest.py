"""A server on this machine that answers as a test says, and a client that asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from fedgpu_operator.adapters.kube.client import KubeClient, Limits
from fedgpu_operator.ports import LeaderCheck, always

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[..., AbstractAsyncContextManager[KubeClient]]


@asynccontextmanager
async def _serve(
    handler: Handler, limits: Limits | None = None, leads: LeaderCheck = always
) -> AsyncIterator[KubeClient]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    client = KubeClient(ApiClient(Configuration(host=f"http://{host}:{port}")), timeout=5, limits=limits, leads=leads)
    try:
        yield client
    finally:
        await client.close()
        await runner.cleanup()


@pytest.fixture
def serve() -> Serve:
    return _serve
