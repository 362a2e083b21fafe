"""The agent's loop and its end, over members that do not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from fedgpu_operator.agent import Agent, AgentSettings
from fedgpu_operator.agent.counting import MemberCount
from fedgpu_operator.agent.lease import LeaseReconciler, Sight, Step
from fedgpu_operator.agent.report import Reporter
from fedgpu_operator.agent.watch import MemberWatch
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.errors import UnreachableError
from fedgpu_operator.ports import NODES, Listed, ResourceType, WatchEvent
from fedgpu_operator.supply import LIVE_PODS


class Silent:
    """A member that answers its version, and hangs on everything else; as a hub it has no leases."""

    def __init__(self, *, hub: bool = False) -> None:
        self.hub = hub
        self.asked = asyncio.Event()

    async def server_version(self) -> str:
        return "v1"

    async def list(self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = "") -> Listed:
        return ([], "1") if self.hub else await self._hang()

    async def pages(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Listed]:
        yield await self.list(kind, namespace, labels=labels, fields=fields)

    async def watch(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", resource_version: str
    ) -> AsyncIterator[WatchEvent]:
        await self._hang()
        yield WatchEvent("ADDED", {})

    async def get(self, kind: ResourceType, name: str, namespace: str = "") -> JSONObject:
        raise NotImplementedError

    async def create(self, kind: ResourceType, obj: JSONObject) -> JSONObject:
        raise NotImplementedError

    async def apply(self, kind: ResourceType, obj: JSONObject, *, force: bool = True) -> JSONObject:
        raise NotImplementedError

    async def patch(self, kind: ResourceType, name: str, namespace: str, patch: JSONObject) -> JSONObject:
        raise NotImplementedError

    async def patch_status(self, kind: ResourceType, name: str, namespace: str, patch: JSONObject) -> JSONObject:
        raise NotImplementedError

    async def delete(
        self, kind: ResourceType, name: str, namespace: str = "", *, uid: str = "", resource_version: str = ""
    ) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        return

    async def _hang(self) -> Listed:
        self.asked.set()
        await asyncio.Event().wait()
        return [], ""


class Clock:
    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)


async def test_a_member_that_hangs_does_not_hold_the_end_up() -> None:
    member = Silent()
    settings = AgentSettings("fedgpu-provider-prov", "hub", close_within=0.05)
    agent = Agent("prov", Silent(hub=True), member, settings, Clock())
    run = asyncio.create_task(agent.run())
    await member.asked.wait()
    async with asyncio.timeout(5):
        await agent.aclose()
        await run


async def test_a_pass_says_how_long_the_member_has_been_silent(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []

    async def reconcile(self: LeaseReconciler, lease: ComputeLease, sight: Sight, **known: Any) -> Step:
        told.append(known["silence"])
        return Step(lease)

    monkeypatch.setattr(LeaseReconciler, "reconcile", reconcile)
    monkeypatch.setattr(MemberWatch, "silence", lambda self: 42.0)
    agent = Agent("prov", Silent(hub=True), Silent(), AgentSettings("ns", "hub"), Clock())
    await agent._reconcile([make.lease()], Sight())
    assert told == [42.0]


async def test_an_error_of_our_own_ends_the_run_and_is_told() -> None:
    """Whoever started it sees it, and starts another; an agent that is silently half dead would be worse."""

    class Broken(Silent):
        async def server_version(self) -> str:
            raise ZeroDivisionError

    agent = Agent("prov", Silent(hub=True), Broken(), AgentSettings("ns", "hub"), Clock())
    with pytest.raises(ExceptionGroup) as raised:
        await agent.run()
    assert isinstance(raised.value.exceptions[0], ZeroDivisionError)
    await agent.aclose()


async def test_a_member_is_counted_by_what_can_hold_gpus_and_for_a_tenth_of_the_time(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, asked = 1000.0, []

    class Slow(Silent):
        async def pages(
            self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
        ) -> AsyncIterator[Listed]:
            nonlocal now
            now += 7.0
            asked.append((kind.plural, labels, fields))
            yield [make.node("a") if kind == NODES else make.pod(gpus=3, node="a")], "1"
            yield [make.node("b") if kind == NODES else make.pod(uid="2", gpus=1, node="b")], "2"

    monkeypatch.setattr("fedgpu_operator.agent.counting.MOST_ASKED_NODES", 1)
    monkeypatch.setattr("fedgpu_operator.agent.agent.time", SimpleNamespace(monotonic=lambda: now))
    agent = Agent("prov", Silent(hub=True), Slow(), AgentSettings("ns", "hub", inventory_interval=10.0), Clock())
    supply = await agent._inventory()
    assert supply is not None
    assert [(each.total, each.others) for each in supply.products] == [(16, 4)]
    assert asked == [
        ("nodes", "", ""),
        ("pods", "", "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"),
    ]
    agent.reachable = True
    now = 1000.0 + 139
    assert await agent._inventory() is None
    now = 1000.0 + 141
    assert await agent._inventory() is not None


async def test_of_a_few_nodes_with_gpus_only_their_own_pods_are_asked_for(make: Any) -> None:
    asked = []

    class Mixed(Silent):
        async def pages(
            self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
        ) -> AsyncIterator[Listed]:
            asked.append((kind.plural, labels, fields))
            if kind == NODES:
                yield [make.node("a"), make.node("b")], "1"
            else:
                node = fields.removeprefix("spec.nodeName=")[0]
                yield [make.pod(uid=node, gpus=3 if node == "a" else 1, node=node)], "1"

    agent = Agent("prov", Silent(hub=True), Mixed(), AgentSettings("ns", "hub"), Clock())
    supply = await agent._inventory()
    assert supply is not None
    assert [(each.total, each.others) for each in supply.products] == [(16, 4)]
    ended = "status.phase!=Succeeded,status.phase!=Failed"
    pods = [("pods", "", f"spec.nodeName={node},{ended}") for node in "ab"]
    assert asked == [("nodes", "", ""), *pods]


@pytest.mark.parametrize(("pods", "requests"), [(1000, 2), (1001, 7)])
async def test_pods_are_asked_for_by_node_where_the_member_has_many(make: Any, pods: int, requests: int) -> None:
    nodes = [make.node(name) for name in "abcde"]
    own = make.pod(uid="0", gpus=3, node="a")
    asked = []

    class Mixed(Silent):
        async def pages(
            self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = ""
        ) -> AsyncIterator[Listed]:
            asked.append(fields)
            if kind == NODES:
                yield nodes, "1"
            elif fields.startswith("spec.nodeName="):
                yield [own] if fields.startswith("spec.nodeName=a") else [], "1"
            else:
                yield [own, *({} for _ in range(pods - 1))], "1"

    member = MemberCount(Mixed(), lambda _: "")
    for _ in range(2):
        (product,) = (await member.look()).products
        assert (product.total, product.others) == (40, 3)
    first, second = asked[:requests], asked[requests:]
    assert second == [each for each in first if pods == 1000 or each != LIVE_PODS], "what it learnt it remembers"


async def test_a_pass_over_a_silent_member_writes_what_was_read_before(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, written = make.lease(), []

    async def leases(self: Agent) -> Any:
        return [lease], {lease.metadata.name}

    async def silent(self: Any, *_: Any) -> Any:
        raise UnreachableError("no answer")

    async def told(self: Reporter, why: Any) -> None:
        return

    async def write(self: LeaseReconciler, each: ComputeLease) -> None:
        written.append(each)

    monkeypatch.setattr(Agent, "_load_leases", leases)
    monkeypatch.setattr(MemberWatch, "sight", silent)
    monkeypatch.setattr(Reporter, "silent", told)
    monkeypatch.setattr(LeaseReconciler, "write_remembered", write)
    agent = Agent("prov", Silent(hub=True), Silent(), AgentSettings("ns", "hub"), Clock())
    with pytest.raises(UnreachableError):
        await agent._pass()
    assert written == [lease]
