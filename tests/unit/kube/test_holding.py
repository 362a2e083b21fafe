"""What is held is not read for ever: the law, and then everything, is refused once nobody can follow it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from fedgpu_operator.adapters.kube.holding import HoldingKube
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.api.placementpolicy import PlacementPolicy
from fedgpu_operator.errors import ConflictError, UnreachableError
from fedgpu_operator.ports import LEASES, Listed, ResourceType, WatchEvent

LEASE = Path(__file__).parents[2] / "integration" / "api" / "objects" / "minimal" / "computelease.yaml"


class Breaking:
    """A server that lists each kind once, and is away from when a test says so."""

    def __init__(self) -> None:
        self.away = asyncio.Event()
        self.watches = 3
        self.noticed = asyncio.Event()

    async def list(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> tuple[list[JSONObject], str]:
        if self.away.is_set():
            raise UnreachableError("refused")
        return [], "1"

    async def pages(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Listed]:
        yield await self.list(kind, namespace, labels=labels, fields=fields)

    async def watch(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", resource_version: str
    ) -> AsyncIterator[WatchEvent]:
        yield WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "2"}})
        await self.away.wait()
        self.watches -= 1
        if not self.watches:
            self.noticed.set()
        raise UnreachableError("reset")


async def test_an_old_law_is_not_read_and_nothing_else_that_is_older_still(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = 0.0
    monkeypatch.setattr("fedgpu_operator.reflector.time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead))
    server = Breaking()
    kube = HoldingKube(
        server,  # type: ignore[arg-type]  # of a client it needs no more than this
        [PlacementPolicy, GPUProvider],
        lambda *_: None,
    )
    task = asyncio.create_task(kube.run())
    try:
        await kube.reading(PlacementPolicy)
        server.away.set()
        async with asyncio.timeout(5):
            await server.noticed.wait()
        await kube.reading(PlacementPolicy)
        assert await kube.labels() == {}
        ahead = 30.0
        with pytest.raises(UnreachableError):
            await kube.reading(PlacementPolicy)
        with pytest.raises(UnreachableError):
            await kube.labels()
        assert (await kube.reading(GPUProvider)).objects == ()
        ahead = 90.0
        with pytest.raises(UnreachableError):
            await kube.reading(GPUProvider)
        ages = {kind: age() for kind, age in kube.silences().items()}
        assert set(ages) == {"placementpolicies", "gpuproviders", "namespaces"}
        assert min(ages.values()) >= 90
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Slow:
    """A server that answers a creation when a test says so."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()

    async def create(self, kind: ResourceType, obj: JSONObject) -> JSONObject:
        await self.answers.wait()
        return {**obj, "metadata": {**obj["metadata"], "uid": "made", "resourceVersion": "7"}}


def _lease(uid: str) -> ComputeLease:
    body = yaml.safe_load(LEASE.read_text())
    body["metadata"] |= {"uid": uid, "namespace": "fedgpu-provider-a"}
    return ComputeLease.parse(body)


async def test_a_lease_is_claimed_once_by_the_process_that_made_it_and_not_before_it_knows() -> None:
    server = Slow()
    kube = HoldingKube(server, [ComputeLease], lambda *_: None)  # type: ignore[arg-type]  # it only creates
    lease = _lease("made")
    making = asyncio.create_task(kube.create(LEASES, yaml.safe_load(LEASE.read_text()) | {"metadata": _named(lease)}))
    await asyncio.sleep(0)
    with pytest.raises(ConflictError, match="is being made"):
        kube.claim(lease)
    server.answers.set()
    await making
    assert not kube.claim(_lease("another"))
    assert kube.claim(lease)
    assert not kube.claim(lease), "once"


def _named(lease: ComputeLease) -> JSONObject:
    return {"name": lease.metadata.name, "namespace": lease.metadata.namespace}
