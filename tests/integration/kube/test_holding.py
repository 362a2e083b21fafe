"""Following a real API server: what is held is what is there, also after we were away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fedgpu_lab.cluster import Cluster
from fedgpu_operator.adapters.kube.client import KubeClient
from fedgpu_operator.adapters.kube.holding import HoldingKube
from fedgpu_operator.api.placementpolicy import PlacementPolicy
from fedgpu_operator.ports import NAMESPACES, ResourceType

POLICIES = ResourceType.of(PlacementPolicy.info)
PATH = "/apis/fedgpu.dev/v1alpha1/placementpolicies"


def policy(name: str, country: str = "DE") -> dict[str, Any]:
    return {
        "apiVersion": POLICIES.api_version,
        "kind": POLICIES.kind,
        "metadata": {"name": name},
        "spec": {"namespaceSelector": {}, "placement": {"residency": {"countries": [country]}}},
    }


class Held:
    """What a running client holds of the policies of one test."""

    def __init__(self, kube: HoldingKube, prefix: str) -> None:
        self.kube, self._prefix = kube, prefix

    async def policies(self) -> dict[str, PlacementPolicy]:
        found = (await self.kube.reading(PlacementPolicy)).objects
        return {each.metadata.name: each for each in found if each.metadata.name.startswith(self._prefix)}

    async def until(self, check: Callable[[dict[str, PlacementPolicy]], bool]) -> dict[str, PlacementPolicy]:
        deadline = time.monotonic() + 20
        while not check(found := await self.policies()):
            assert time.monotonic() < deadline, f"still {found}"
            await asyncio.sleep(0.05)
        return found


@asynccontextmanager
async def following(client: KubeClient, prefix: str) -> AsyncIterator[Held]:
    kube = HoldingKube(client, [PlacementPolicy], lambda *_: None)
    task = asyncio.create_task(kube.run())
    try:
        yield Held(kube, prefix)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_others_write_and_delete_is_followed(
    kinds: Cluster, hub: Cluster, kube: KubeClient, unique_name: Callable[[str], str]
) -> None:
    prefix = unique_name("p")
    async with following(kube, prefix) as held:
        assert await held.policies() == {}
        await kube.create(POLICIES, policy(f"{prefix}-a"))
        first = (await held.until(lambda found: f"{prefix}-a" in found))[f"{prefix}-a"]
        again = (await held.policies())[f"{prefix}-a"]
        assert again is first, "an object that did not change is the same one"
        await kube.patch(POLICIES, f"{prefix}-a", "", {"metadata": {"labels": {"x": "y"}}})
        await held.until(lambda found: found[f"{prefix}-a"].metadata.labels == {"x": "y"})
        hub.api.delete(f"{PATH}/{prefix}-a")
        await held.until(lambda found: not found)


async def test_our_own_write_is_held_when_its_answer_is_there(
    kinds: Cluster, hub: Cluster, kube: KubeClient, unique_name: Callable[[str], str]
) -> None:
    prefix = unique_name("p")
    async with following(kube, prefix) as held:
        await held.policies()
        for index in range(20):
            answer = await held.kube.create(POLICIES, policy(f"{prefix}-{index}"))
            mine = held.kube.read(PlacementPolicy, answer)
            assert (await held.policies())[f"{prefix}-{index}"].metadata.uid == mine.metadata.uid
            assert held.kube.answered(mine) < 10
        for index in range(20):
            hub.api.delete(f"{PATH}/{prefix}-{index}")
        await held.until(lambda found: not found)


async def test_what_was_deleted_while_nobody_looked_is_gone(
    kinds: Cluster, hub: Cluster, kube: KubeClient, unique_name: Callable[[str], str]
) -> None:
    prefix = unique_name("p")
    await kube.create(POLICIES, policy(f"{prefix}-stays"))
    await kube.create(POLICIES, policy(f"{prefix}-goes"))
    client = HoldingKube(kube, [PlacementPolicy], lambda *_: None)
    held = Held(client, prefix)
    task = asyncio.create_task(client.run())
    await held.until(lambda found: len(found) == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    hub.api.delete(f"{PATH}/{prefix}-goes")
    task = asyncio.create_task(client.run())
    try:
        await held.until(lambda found: set(found) == {f"{prefix}-stays"})
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        hub.api.delete(f"{PATH}/{prefix}-stays")


async def test_labels_of_namespaces_are_held(kube: KubeClient, unique_name: Callable[[str], str]) -> None:
    name = unique_name("n")
    async with following(kube, name) as held:
        await held.kube.labels()
        await held.kube.create(NAMESPACES, {"metadata": {"name": name, "labels": {"team": "a"}}})
        assert (await held.kube.labels())[name]["team"] == "a"
        await kube.delete(NAMESPACES, name)
