"""What is held of a member is bounded, and the bound is a reason that people see, not a loss that they do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.unit.agent.test_agent import Silent

from fedgpu_operator.agent import watch as watching
from fedgpu_operator.agent.watch import KEPT, MOST_PODS, MemberWatch
from fedgpu_operator.agent.workload import HUB_LABEL, Identity
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computelease import LEASE_LABEL, PROVIDER_LABEL
from fedgpu_operator.errors import AnswerTooLargeError
from fedgpu_operator.ports import BATCH_JOBS, PODS, Listed, ResourceType, WatchEvent
from fedgpu_operator.reflector import weight

OURS = Identity("hub", "prov")


def pod(number: int, lease: str = "a", **status: Any) -> JSONObject:
    labels = {LEASE_LABEL: lease, HUB_LABEL: "hub", PROVIDER_LABEL: "prov"}
    meta = {"name": f"p{number}", "namespace": "ns", "uid": f"u{number}", "resourceVersion": str(number + 1)}
    return {"metadata": {**meta, "labels": labels}, "status": {"phase": "Running", **status}}


class Shows(Silent):
    """A member with these pods, and what its watch tells next."""

    def __init__(self, *pods: JSONObject) -> None:
        super().__init__()
        self.pods = list(pods)
        self.events: asyncio.Queue[WatchEvent] = asyncio.Queue()

    async def list(self, kind: ResourceType, namespace: str = "", *, labels: str = "", fields: str = "") -> Listed:
        return (self.pods if kind == PODS else []), "1"

    async def watch(
        self, kind: ResourceType, namespace: str = "", *, labels: str = "", resource_version: str
    ) -> AsyncIterator[WatchEvent]:
        while kind == PODS:
            yield await self.events.get()
            self.events.task_done()
        await asyncio.Event().wait()
        yield WatchEvent("BOOKMARK", {})


async def followed(member: Shows) -> tuple[MemberWatch, asyncio.Task[None]]:
    watch = MemberWatch(member, OURS, lambda: None, longest_pause=0.01)
    return watch, asyncio.create_task(watch.run())


async def test_more_pods_than_a_lease_can_have_are_a_reason_not_to_believe_the_member() -> None:
    member = Shows(*(pod(number) for number in range(MOST_PODS + 1)))
    watch, run = await followed(member)
    try:
        for _ in range(2):
            with pytest.raises(AnswerTooLargeError, match="more than 4096 pods of lease a"):
                await watch.sight()
        with pytest.raises(AnswerTooLargeError, match="more than 4096 pods of lease a"):
            await watch.look("a")
        member.events.put_nowait(WatchEvent("DELETED", member.pods.pop()))
        async with asyncio.timeout(5):
            await member.events.join()
        await asyncio.sleep(0)
        assert len((await watch.sight()).pods["a"]) == MOST_PODS
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


async def test_what_does_not_fit_is_not_held_and_the_member_counts_as_not_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = weight(KEPT[PODS](pod(0)))
    monkeypatch.setattr(watching, "MOST_HELD", 10 * one)
    monkeypatch.setattr(watching, "PATIENCE_SECONDS", 0.0)
    member = Shows(*(pod(number) for number in range(5)))
    watch, run = await followed(member)
    try:
        assert len((await watch.sight()).pods["a"]) == 5
        for number in range(5, 30):
            member.pods.append(pod(number))
            member.events.put_nowait(WatchEvent("ADDED", member.pods[-1]))
        async with asyncio.timeout(5):
            while True:
                try:
                    await watch.sight()
                except AnswerTooLargeError as error:
                    assert "pods to be followed" in str(error)  # noqa: PT017  # it comes after a while
                    break
                await asyncio.sleep(0)
        assert sum(len(each) for each in watch._pods_of.values()) <= 10
        del member.pods[5:]
        async with asyncio.timeout(5):
            while True:
                try:
                    seen = await watch.sight()
                except AnswerTooLargeError:
                    await asyncio.sleep(0.001)
                else:
                    break
        assert len(seen.pods["a"]) == 5, "when a list fits again, it is followed again"
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


async def test_pods_that_come_and_end_without_end_are_not_all_remembered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = weight(KEPT[PODS](pod(0, phase="Succeeded")))
    monkeypatch.setattr(watching, "MOST_HELD", 20 * one)
    member = Shows()
    watch, run = await followed(member)
    try:
        for number in range(200):
            member.events.put_nowait(WatchEvent("ADDED", pod(number, lease=f"l{number % 7}")))
            gone = pod(number, lease=f"l{number % 7}", phase="Succeeded")
            gone["metadata"]["resourceVersion"] = str(1000 + number)
            member.events.put_nowait(WatchEvent("DELETED", gone))
        async with asyncio.timeout(5):
            await member.events.join()
        await asyncio.sleep(0)
        sight = await watch.sight()
        assert 10 <= sum(map(len, sight.gone.values())) <= 20
        assert caplog.text.count("more pods ended than are remembered") == 1
        watch.forget(set())
        assert not sight.gone
        assert watch._ended_weight == 0
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


async def test_there_is_room_for_as_many_pods_as_the_leases_have(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MOST_HELD", 0)
    member = Shows(*(pod(number) for number in range(50)))
    watch = MemberWatch(member, OURS, lambda: None, longest_pause=0.01)
    watch.expect([make.lease(replicas=50)])
    run = asyncio.create_task(watch.run())
    try:
        assert len((await watch.sight()).pods["a"]) == 50
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


async def test_a_pod_that_changes_its_lease_leaves_the_one_before() -> None:
    member = Shows(pod(1, "a"))
    watch, run = await followed(member)
    try:
        assert set((await watch.sight()).pods) == {"a"}
        moved = pod(1, "b")
        moved["metadata"]["resourceVersion"] = "9"
        member.events.put_nowait(WatchEvent("MODIFIED", moved))
        async with asyncio.timeout(5):
            while "b" not in (sight := await watch.sight()).pods:  # noqa: ASYNC110  # events come by themselves
                await asyncio.sleep(0)
        assert set(sight.pods) == {"b"}
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


def test_jobs_are_kept_without_what_their_pods_are_made_of() -> None:
    job = {"metadata": {"name": "j"}, "spec": {"template": {"spec": {"containers": []}}, "suspend": True}}
    assert KEPT[BATCH_JOBS](job)["spec"] == {"suspend": True}


async def test_names_of_leases_that_nobody_has_are_not_remembered() -> None:
    """A watch that tells of ever new leases, whose Jobs and pods go again, leaves nothing behind."""
    member = Shows()
    watch, run = await followed(member)
    try:
        await watch.sight()
        watch.expect([])
        for number in range(200):
            for kind in ("ADDED", "DELETED"):
                shown = pod(2 * number + (kind == "DELETED"), f"lease-{number}", phase="Succeeded")
                shown["metadata"]["name"] = shown["metadata"]["uid"] = f"p{number}"
                member.events.put_nowait(WatchEvent(kind, shown))
                job = {"metadata": {**shown["metadata"], "resourceVersion": str(1000 + number)}}
                watch._job_changed(("ns", "j"), *((None, job) if kind == "ADDED" else (job, None)))
        async with asyncio.timeout(5):
            await member.events.join()
        await asyncio.sleep(0)
        assert not watch._changed
        assert not watch._ever
        assert not watch._ended
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


async def test_of_a_lease_that_is_expected_ends_and_jobs_are_remembered(make: Any) -> None:
    member, lease = Shows(), make.lease()
    name = lease.metadata.name
    watch, run = await followed(member)
    try:
        await watch.sight()
        watch.expect([lease])
        member.events.put_nowait(WatchEvent("ADDED", pod(1, name)))
        gone = pod(1, name, phase="Succeeded")
        gone["metadata"]["resourceVersion"] = "9"
        member.events.put_nowait(WatchEvent("DELETED", gone))
        watch._job_changed(("ns", "j"), None, pod(1, name))
        async with asyncio.timeout(5):
            await member.events.join()
        await asyncio.sleep(0)
        seen = await watch.sight()
        assert [each["metadata"]["uid"] for each in seen.gone[name]] == ["u1"]
        assert name in seen.ever
        watch.expect([])
        assert not watch._ever
        assert not watch._ended
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
