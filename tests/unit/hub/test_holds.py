"""What announced moves hold, for whom, from when, and who is bound by it; their stops wait for no plan."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.unit.hub.world import H100, World

from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.decision import Decision
from fedgpu_operator.domain.geo import Location
from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import GpuModel, GpuNeed, Offer
from fedgpu_operator.domain.running import Announced, MoveReason
from fedgpu_operator.errors import ConflictError, KubeError
from fedgpu_operator.hub.services.holds import HOLD, Hold, decide_held, holds, waiting_jobs
from fedgpu_operator.hub.services.hubstate import load
from fedgpu_operator.hub.services.priorities import PRIORITY_CLASSES
from fedgpu_operator.hub.views.jobfacts import Notice, notice_of
from fedgpu_operator.placement import Engine, Snapshot

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MOVABLE: dict[str, Any] = {
    "disruption": {"reclaimable": True, "noticeSeconds": 60},
    "checkpoint": {"intervalSeconds": 60},
}


def job(uid: str, gpus: int, priority: int) -> Job:
    return Job(uid, "lab", uid, GpuNeed(gpus), 1, 3600, priority=priority)


def offer(name: str, free: dict[int, int], price: int = 1) -> Offer:
    return Offer(name, GpuModel(H100, 81559, "hopper"), MicroUSD(price * 1_000_000), Location("DE"), free)


def decided(
    jobs: Sequence[Job], offers: Sequence[Offer], held: Sequence[Hold], **freed: dict[int, int]
) -> dict[str, str]:
    engine = Engine()
    view = Snapshot(NOW, tuple(jobs), tuple(offers), funds={"lab": None})

    def decide(part: Snapshot) -> Sequence[Decision]:
        return engine.decide(part).decisions

    found = decide_held(view, held, lambda name, _: freed[name.partition("/")[0]], decide)
    return {each.job_uid: each.chosen.provider if each.chosen else "" for each in found}


def room(uid: str, gpus: int, priority: int, provider: str, *after: str) -> Hold:
    return Hold(f"{provider}/{H100}", uid, gpus, 1, priority, waits=True, after=frozenset(after))


@pytest.mark.parametrize("apart", [0, 32])
def test_who_room_is_made_for_takes_nobody_elses(monkeypatch: pytest.MonkeyPatch, apart: int) -> None:
    """`low` would be served at once by the free half of what becomes `high`'s node."""
    monkeypatch.setattr("fedgpu_operator.hub.services.holds.MOST_APART", apart)
    held = [room("high", 8, 9, "berlin", "lease-a"), room("low", 4, 5, "paris", "lease-b")]
    offers = [offer("berlin", {4: 1}), offer("paris", {}, 2)]
    assert decided([job("high", 8, 9), job("low", 4, 5)], offers, held, berlin={8: 1}, paris={4: 1}) == {
        "high": "",
        "low": "",
    }


def test_what_is_held_for_lower_work_binds_no_higher_and_its_own_binds_nobody() -> None:
    held = [room("high", 8, 9, "berlin", "lease-a"), room("low", 4, 5, "paris", "lease-b")]
    offers = [offer("berlin", {}), offer("paris", {8: 1}, 2)]
    jobs = [job("high", 8, 9), job("low", 4, 5)]
    assert decided(jobs, offers, held, berlin={8: 1}, paris={8: 1}) == {"high": "paris", "low": ""}
    ready = [room("low", 4, 5, "paris")]
    found = decided([job("low", 4, 5), job("other", 4, 5)], [offer("paris", {4: 1})], ready, paris={4: 1})
    assert found == {"low": "paris", "other": ""}


async def _running(world: World, name: str = "work", **spec: Any) -> ComputeLease:
    await world.job(name, **{"gpu": {"count": 8}, **MOVABLE, **spec})
    await world.pass_once()
    await world.runs(_lease(world, name), 8)
    world.clock.forward(10)
    await world.pass_once()
    return _lease(world, name)


def _lease(world: World, name: str = "work") -> ComputeLease:
    return [lease for lease in world.leases if lease.spec.job.name == name][-1]


async def _told(world: World) -> None:
    """`work` runs on all of berlin and was told to go for `urgent`."""
    await world.kube.create(PRIORITY_CLASSES, {"metadata": {"name": "high"}, "value": 1000})
    await world.provider("berlin")
    await _running(world)
    await world.job("urgent", gpu={"count": 8}, priorityClassName="high")
    await world.pass_once()
    assert notice_of(_lease(world)) is not None


async def test_room_stays_held_for_a_job_that_this_pass_cannot_decide_on(world: World) -> None:
    await _told(world)
    state, lease = await load(world.kube), _lease(world)
    urgent = world.see("urgent").metadata.uid
    (hold,) = holds([lease], waiting_jobs(state), {}, world.clock.now())
    assert (hold.uid, hold.gpus, hold.priority > 0, hold.after) == (urgent, 8, True, frozenset({lease.metadata.name}))
    await world.change("urgent", suspend=True)
    assert holds([lease], waiting_jobs(await load(world.kube)), {}, world.clock.now()) == ()


async def test_a_new_place_is_held_for_two_minutes_before_the_stop_and_no_longer(world: World) -> None:
    await world.provider("berlin")
    lease = await _running(world)
    stop = world.clock.now() + timedelta(hours=1)
    move = Announced(MoveReason.REBALANCED, to=f"paris/{H100}")
    notice = Notice(move, stop, stop + HOLD, 0, "why").to_wire()
    told = ComputeLease.parse({**lease.to_wire(), "spec": {**lease.spec.to_wire(), "move": notice}})
    waiting = waiting_jobs(await load(world.kube))
    assert holds([told], waiting, {}, stop - HOLD - timedelta(seconds=1)) == ()
    assert [hold.offer for hold in holds([told], waiting, {}, stop - HOLD)] == [f"paris/{H100}"]


async def test_a_finished_job_that_was_reclaimable_keeps_nobody_from_being_moved(world: World) -> None:
    await world.provider("berlin", free={8: 1})
    await world.ends(await _running(world, "old"), gpu_seconds=16)
    await world.pass_once()
    await world.pass_once()
    assert world.see("old").status.state == "Succeeded"
    await world.kube.create(PRIORITY_CLASSES, {"metadata": {"name": "high"}, "value": 1000})
    await _running(world)
    await world.job("urgent", gpu={"count": 8}, priorityClassName="high")
    await world.pass_once()
    assert notice_of(_lease(world)) is not None, "each pass here is a restart: nothing of `old` is remembered"


async def test_one_job_that_cannot_be_written_keeps_no_other_from_being_moved(world: World) -> None:
    await world.provider("oslo", "9.00", country="NO")
    await _running(world, "broken", placement={"countries": ["NO"]})
    await world.runs(_lease(world, "broken"), 16)
    await world.kube.create(PRIORITY_CLASSES, {"metadata": {"name": "high"}, "value": 1000})
    await world.provider("berlin")
    await _running(world, placement={"countries": ["DE"]})

    def refuse(verb: str, plural: str, name: str) -> None:
        if (verb, plural, name) == ("status", "computejobs", "broken"):
            raise ConflictError("written by another")

    world.kube.before = refuse
    await world.runs(_lease(world, "broken"), 24)
    await world.job("urgent", gpu={"count": 8}, priorityClassName="high", placement={"countries": ["DE"]})
    await world.pass_once()
    assert notice_of(_lease(world)) is not None


async def test_a_due_stop_does_not_wait_for_a_new_providers_report(world: World) -> None:
    await _told(world)
    world.clock.forward(30)
    await world.pass_once()
    await world.provider("paris", country="FR")
    await world.ready("paris", "Unknown", ConditionReason.AWAITING_REPORT, state="Pending")
    world.clock.forward(21)
    meta = world.kube.objects["gpuproviders", "", "paris"]["metadata"]
    meta["creationTimestamp"] = (world.clock.now() + timedelta(seconds=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert await world.pass_once() == pytest.approx(1.0), "it waits for that report"
    assert _lease(world).spec.desired == "Run"
    world.clock.forward(9)
    await world.pass_once()
    assert _lease(world).spec.stop_reason == "Preempted"


async def test_classes_that_cannot_be_read_stop_only_jobs_that_name_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = world.kube.list

    async def forbidden(kind: Any, *args: Any, **kwargs: Any) -> Any:
        if kind == PRIORITY_CLASSES:
            raise KubeError("forbidden", status=403)
        return await plain(kind, *args, **kwargs)

    monkeypatch.setattr(world.kube, "list", forbidden)
    await world.provider("berlin")
    await world.job("plain")
    await world.job("named", priorityClassName="high")
    await world.pass_once()
    assert world.says("Placed", "plain") == ("True", "Placed")
    assert world.says("Placed", "named") == ("False", "UnknownPriorityClass")
    assert "cannot be read" in world.message("Placed", "named")
