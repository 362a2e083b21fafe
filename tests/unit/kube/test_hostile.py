"""The client against a server that means ill: it is bounded in size, pages and time, led nowhere, and quoted never."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from aiohttp import web

from fedgpu_lab.kubeconfig import render
from fedgpu_lab.pki import new_server_identity
from fedgpu_operator.adapters.kube.client import KubeClient, Limits
from fedgpu_operator.adapters.kube.kubeconfig import member_client
from fedgpu_operator.errors import ForbiddenError, KubeError, RejectedError, UnreachableError
from fedgpu_operator.ports import NODES, PODS, SECRETS

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[..., AbstractAsyncContextManager[KubeClient]]
SECRET = "AccessKeyId=AKIA-INTERNAL"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(serve: Serve, status: int) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=status, headers={"Location": "/latest/meta-data"}, text=SECRET)

    async with serve(answer) as client:
        with pytest.raises(UnreachableError, match="redirects are not followed") as raised:
            await client.server_version()
        with pytest.raises(UnreachableError, match="redirects are not followed"):
            await client.create(PODS, {"metadata": {"namespace": "ns", "name": "x"}})
        with pytest.raises(UnreachableError, match="redirects are not followed"):
            async for _ in client.watch(PODS, resource_version="1"):
                pass
    assert asked == ["/version", "/api/v1/namespaces/ns/pods", "/api/v1/pods"]
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "body", [SECRET, f'"{SECRET}"', f'{{"message": "{SECRET}"}}', f'["{SECRET}"]', "[" * 50_000, "1" * 5000]
)
async def test_what_is_no_kubernetes_status_is_not_quoted(serve: Serve, body: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=403, text=body)

    async with serve(answer) as client:
        with pytest.raises(ForbiddenError, match="answered 403 without a Kubernetes status") as raised:
            await client.server_version()
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("body", [SECRET, "[]", "1" * 5000, "[" * 50_000, "{"])
async def test_what_is_no_object_is_an_error_of_ours_and_not_quoted(serve: Serve, body: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=body)

    async with serve(answer) as client:
        with pytest.raises(UnreachableError, match="without a Kubernetes object") as raised:
            await client.get(PODS, "x", "ns")
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("body", [{}, {"metadata": {}, "items": "x"}, {"metadata": {}, "items": ["x", {}]}])
async def test_a_list_of_no_objects_is_an_error_of_ours(serve: Serve, body: object) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(body)

    async with serve(answer) as client:
        with pytest.raises(UnreachableError, match="sent"):
            await client.list(PODS)


async def test_nothing_is_unpacked(serve: Serve) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.headers["Accept-Encoding"])
        body = gzip.compress(b'{"metadata": {}, "items": [], "x": "' + b"A" * 1_000_000 + b'"}')
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    async with serve(answer) as client:
        with pytest.raises(UnreachableError, match="compressed"):
            await client.list(NODES)
    assert asked == ["identity"]


async def test_an_answer_is_read_no_further_than_its_limit(serve: Serve) -> None:
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)
            sent += 65536

    async with serve(answer, Limits(object_bytes=100_000)) as client:
        with pytest.raises(UnreachableError, match="larger than 100000 bytes"):
            await client.get(PODS, "x", "ns")
    assert sent < 32 * 2**20


def _endless(*, kilobytes: int = 0, pause: float = 0.0) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(pause)
        meta = {"resourceVersion": "1", "continue": "more", "padding": "x" * 1024 * kilobytes}
        return web.json_response({"metadata": meta, "items": []})

    return answer


async def test_a_list_without_end_ends_at_its_pages_its_bytes_or_its_time(serve: Serve) -> None:
    async with serve(_endless(), Limits(list_pages=5)) as client:
        with pytest.raises(UnreachableError, match="more than 5 pages"):
            await client.list(PODS)
    async with serve(_endless(kilobytes=60), Limits(list_bytes=200_000)) as client:
        with pytest.raises(UnreachableError, match="larger than"):
            await client.list(PODS)
    async with serve(_endless(pause=0.02), Limits(list_seconds=0.1)) as client:
        with pytest.raises(UnreachableError, match=r"more than 0\.1 s"):
            await client.list(PODS)


async def test_a_watch_sends_events_or_ends(serve: Serve) -> None:
    def sends(line: bytes) -> Handler:
        async def answer(request: web.Request) -> web.Response:
            return web.Response(body=line)

        return answer

    for line in (
        b"[1]\n",
        b"no json\n",
        b'{"type":"ADDED","object":{}}\n',
        b'{"type":"ODD","object":{}}\n',
        b"A" * 2**23,
    ):
        async with serve(sends(line)) as client:
            with pytest.raises(UnreachableError, match="sent"):
                async for _ in client.watch(PODS, resource_version="1"):
                    pass


async def test_a_name_is_one_segment_of_the_path_and_never_none(serve: Serve) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        return web.json_response({"metadata": {"name": "x"}})

    async with serve(answer) as client:
        await client.get(SECRETS, "../configmaps/x?y#z", "ns/../kube-system")
        for name in ("", ".", ".."):
            for call in (client.get(SECRETS, name, "ns"), client.delete(SECRETS, name, "ns")):
                with pytest.raises(RejectedError, match="is not a name"):
                    await call
    assert asked == ["/api/v1/namespaces/ns%2F..%2Fkube-system/secrets/..%2Fconfigmaps%2Fx%3Fy%23z"]


async def test_an_error_longer_than_any_status_is_cut(serve: Serve) -> None:
    async def long(request: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "message": "so\nlong " * 1000}, status=400)

    async def longer(request: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "message": "x" * 2**21}, status=400)

    async with serve(long) as client:
        with pytest.raises(KubeError, match="400: so long so") as raised:
            await client.get(PODS, "x", "ns")
    assert len(str(raised.value)) < 2100
    async with serve(longer) as client:
        with pytest.raises(KubeError, match="without a Kubernetes status"):
            await client.get(PODS, "x", "ns")


HUGE = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b" " * 100_000


@pytest.mark.parametrize("answer", [HUGE, b""], ids=["too large", "none"])
async def test_a_server_that_takes_no_farewell_holds_no_connection(tmp_path: Path, answer: bytes) -> None:
    """It would hold one for each call that failed, for the 30 s that TLS waits for its answer to the farewell."""
    identity = new_server_identity(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.cert_file, identity.key_file)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        url = f"https://127.0.0.1:{server.getsockname()[1]}"
        api = member_client(render(name="deaf", server=url, ca_pem=identity.ca_pem, token="x"))
        client = KubeClient(api, timeout=1, limits=Limits(version_bytes=1000))
        ended = pool.submit(_until_its_end, server, context, answer)
        try:
            with pytest.raises(UnreachableError):
                await client.server_version()
            assert await asyncio.wrap_future(ended), "the connection is still there"
        finally:
            await client.close()


def _until_its_end(server: socket.socket, context: ssl.SSLContext, answer: bytes) -> bool:
    """Answer the first request; whether the client ends the connection though it gets no word of TLS any more."""
    connection, _ = server.accept()
    with context.wrap_socket(connection, server_side=True) as wrapped:
        wrapped.recv(65536)
        try:
            wrapped.sendall(answer)
        except (ssl.SSLEOFError, ConnectionError):
            return True  # cut before all of it was sent
        with socket.socket(fileno=os.dup(wrapped.fileno())) as beneath:
            beneath.settimeout(5)
            try:
                while beneath.recv(65536):
                    pass
            except ConnectionResetError:
                return True
            except TimeoutError:
                return False
    return True
