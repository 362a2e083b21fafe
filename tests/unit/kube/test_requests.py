"""Requests to API servers are counted by what was asked for and how it ended, and by nothing that strangers choose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress

import pytest
from aiohttp import web
from yarl import URL

from fedgpu_operator.adapters.kube.client import KubeClient
from fedgpu_operator.adapters.requests import API_REQUESTS, API_SECONDS, verb_and_kind
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.errors import KubeError
from fedgpu_operator.ports import PODS, ResourceType

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], AbstractAsyncContextManager[KubeClient]]
Labels = tuple[str, ...]
COMPUTE_JOBS = ResourceType.of(ComputeJob.info)


def counts() -> Counter[Labels]:
    (family,) = API_REQUESTS.collect()
    found = [sample for sample in family.samples if sample.name.endswith("_total")]
    return Counter({tuple(sample.labels.values()): int(sample.value) for sample in found})


@pytest.fixture
def counted() -> Callable[[], Counter[Labels]]:
    """The requests since the test began, by (server, verb, kind, code)."""
    before = counts()
    return lambda: counts() - before


async def test_each_request_is_counted_by_verb_kind_and_status(
    serve: Serve, counted: Callable[[], Counter[Labels]]
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/gone"):
            return web.json_response({"kind": "Status"}, status=404)
        if request.path.endswith("/torn") and request.transport is not None:
            request.transport.abort()
        if "limit" in request.query:
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})
        return web.json_response({"metadata": {"name": "x", "uid": "u"}})

    async with serve(answer) as client:
        await client.get(PODS, "x", "team-a")
        await client.list(PODS)
        await client.create(PODS, {"metadata": {"name": "x", "namespace": "team-a"}})
        await client.patch(COMPUTE_JOBS, "x", "team-a", {})
        await client.patch_status(COMPUTE_JOBS, "x", "team-a", {})
        for name in ("gone", "torn"):
            with suppress(KubeError):
                await client.get(COMPUTE_JOBS, name, "team-a")
    assert counted() == {
        ("hub", "get", "pods", "200"): 1,
        ("hub", "list", "pods", "200"): 1,
        ("hub", "create", "pods", "200"): 1,
        ("hub", "patch", "computejobs", "200"): 1,
        ("hub", "patch", "computejobs/status", "200"): 1,
        ("hub", "get", "computejobs", "404"): 1,
        ("hub", "get", "computejobs", "<error>"): 1,
    }


async def test_a_request_is_timed_until_its_response_begins(serve: Serve) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"metadata": {"name": "x", "uid": "u"}})

    def timed() -> float:
        (family,) = API_SECONDS.collect()
        wanted = {"server": "hub", "verb": "delete", "kind": "pods"}
        return sum(s.value for s in family.samples if s.labels == wanted and s.name.endswith("_count"))

    before = timed()
    async with serve(answer) as client:
        await client.delete(PODS, "x", "team-a")
    assert timed() == before + 1


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("GET", "/version", ("get", "version")),
        ("GET", "/api/v1/namespaces", ("list", "namespaces")),
        ("GET", "/api/v1/namespaces/kube-system", ("get", "namespaces")),
        ("GET", "/api/v1/namespaces/team-a/pods", ("list", "pods")),
        ("GET", "/apis/fedgpu.dev/v1alpha1/computejobs?watch=1", ("watch", "computejobs")),
        ("GET", "/apis/fedgpu.dev/v1alpha1/gpuproviders/berlin", ("get", "gpuproviders")),
        ("PATCH", "/apis/fedgpu.dev/v1alpha1/gpuproviders/berlin/status", ("patch", "gpuproviders/status")),
        ("DELETE", "/apis/batch/v1/namespaces/team-a/jobs/train", ("delete", "jobs")),
    ],
)
def test_what_is_asked_for_is_read_from_the_path(method: str, path: str, wanted: tuple[str, str]) -> None:
    assert verb_and_kind(method, URL(f"https://hub{path}")) == wanted
