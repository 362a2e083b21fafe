"""What announced moves hold, for whom, from when, and who is bound by it; their stops wait for no plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from tests.unit.hub.world import H100, World

from fedgpu_operator.api.computejob import ComputeJob
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


def offer(name: str, free: dict[int, int], price: int = 1, *, slots: int | None = None, product: str = H100) -> Offer:
    model = GpuModel(product, 81559, "hopper")
    return Offer(name, model, MicroUSD(price * 1_000_000), Location("DE"), free, lease_slots=slots)


def decided(
    jobs: Sequence[Job],
    offers: Sequence[Offer],
    held: Sequence[Hold],
    funds: int | None = None,
    **freed: dict[int, int],
) -> dict[str, str]:
    """Where each job goes, "" for nowhere; `funds` in USD, None for no end of it."""
    engine = Engine()
    money = None if funds is None else MicroUSD(funds * 1_000_000)
    view = Snapshot(NOW, tuple(jobs), tuple(offers), funds={"lab": money})

    def decide(part: Snapshot) -> Sequence[Decision]:
        return engine.decide(part).decisions

    found = decide_held(view, held, lambda name, _: freed[name.partition("/")[0]], decide)
    return {each.job_uid: each.chosen.provider if each.chosen else "" for each in found}


def room(uid: str, gpus: int, priority: int, provider: str, *after: str) -> Hold:
    return Hold(f"{provider}/{H100}", uid, gpus, 1, priority, waits=True, after=frozenset(after))


@pytest.mark.parametrize("apart", [0, 32])
@pytest.mark.parametrize("priority", [5, 9])
def test_who_room_is_made_for_takes_nobody_elses(monkeypatch: pytest.MonkeyPatch, apart: int, priority: int) -> None:
    """`low` would be served at once by the free half of what becomes `high`'s node."""
    monkeypatch.setattr("fedgpu_operator.hub.services.holds.MOST_APART", apart)
    held = [room("high", 8, 9, "berlin", "lease-a"), room("low", 4, priority, "paris", "lease-b")]
    offers = [offer("berlin", {4: 1}), offer("paris", {}, 2)]
    jobs = [job("high", 8, 9), job("low", 4, priority)]
    assert decided(jobs, offers, held, berlin={8: 1}, paris={4: 1}) == {"high": "", "low": ""}


def test_whose_room_is_there_comes_before_who_still_waits_for_it() -> None:
    held = [room("late", 8, 9, "berlin", "lease-a"), room("ready", 8, 5, "berlin")]
    found = decided([job("late", 8, 9), job("ready", 8, 5)], [offer("berlin", {8: 1})], held, berlin={8: 2})
    assert found == {"ready": "berlin", "late": ""}


def test_what_is_held_for_lower_work_binds_no_higher_and_its_own_binds_nobody() -> None:
    held = [room("high", 8, 9, "berlin", "lease-a"), room("low", 4, 5, "paris", "lease-b")]
    offers = [offer("berlin", {}), offer("paris", {8: 1}, 2)]
    jobs = [job("high", 8, 9), job("low", 4, 5)]
    assert decided(jobs, offers, held, berlin={8: 1}, paris={8: 1}) == {"high": "paris", "low": ""}
    ready = [room("low", 4, 5, "paris")]
    found = decided([job("low", 4, 5), job("other", 4, 5)], [offer("paris", {4: 1})], ready, paris={4: 1})
    assert found == {"low": "paris", "other": ""}


ELSEWHERE = room("mover", 8, 5, "rome")
"""With it those of a higher priority than 5 are decided on before the others."""
A100 = "NVIDIA-A100-SXM4-80GB"


@pytest.mark.parametrize(
    ("offers", "funds", "second"),
    [
        ([offer("berlin", {8: 2})], None, "berlin"),
        ([offer("berlin", {8: 1})], None, ""),
        ([offer("berlin", {8: 2}, slots=2)], None, "berlin"),
        ([offer("berlin", {8: 2}, slots=1)], None, ""),
        ([offer("berlin", {8: 1}, slots=1), offer("berlin", {8: 1}, 2, slots=1, product=A100)], None, ""),
        ([offer("berlin", {8: 1}, slots=1), offer("paris", {8: 1}, 2, slots=1)], None, "paris"),
        ([offer("berlin", {8: 2})], 20, "berlin"),
        ([offer("berlin", {8: 2})], 12, ""),
    ],
)
def test_what_is_decided_first_is_taken_for_those_that_come_after(
    offers: list[Offer], funds: int | None, second: str
) -> None:
    """Its GPUs, its lease among those that its provider takes, and its money."""
    jobs = [job("second", 8, 1), job("first", 8, 9)]
    assert decided(jobs, offers, [ELSEWHERE], funds) == {"first": "berlin", "second": second}


def test_a_job_of_another_namespace_is_charged_to_nobody_here() -> None:
    jobs = [job("second", 8, 1), replace(job("first", 8, 9), namespace="else")]
    assert decided(jobs, [offer("berlin", {8: 2})], [ELSEWHERE], 12)["second"] == "berlin"


def test_a_job_that_got_nothing_takes_nothing() -> None:
    jobs = [job("second", 8, 1), job("first", 16, 9), job("other", 8, 9)]
    found = decided(jobs, [offer("berlin", {8: 2})], [ELSEWHERE])
    assert found == {"first": "", "other": "berlin", "second": "berlin"}


NOW_HELD = Hold(f"berlin/{H100}", "mover", 8, 1, 5, waits=True)
ROOM = room("mover", 8, 5, "berlin", "lease-a")


@pytest.mark.parametrize(
    ("free", "slots", "held", "freed", "place"),
    [
        ({8: 2}, None, [NOW_HELD], {}, "berlin"),
        ({8: 1}, None, [NOW_HELD], {}, ""),
        ({8: 2}, None, [NOW_HELD, NOW_HELD], {}, ""),
        ({8: 3}, None, [NOW_HELD, NOW_HELD], {}, "berlin"),
        ({8: 2}, 2, [NOW_HELD], {}, "berlin"),
        ({8: 2}, 1, [NOW_HELD], {}, ""),
        ({8: 2}, 0, [NOW_HELD], {}, ""),
        # What goes first has a lease of its own, which the job takes over.
        ({8: 1}, 1, [ROOM], {8: 2}, "berlin"),
        # A node that the job will need is not sold while others still leave it.
        ({8: 1}, None, [ROOM], {8: 1, 4: 1}, ""),
        ({8: 2}, None, [ROOM, ROOM], {8: 3}, "berlin"),
        # Where the job would not fit even then, nothing is sold: something is about to change.
        ({8: 1}, None, [ROOM], {4: 2}, ""),
    ],
)
def test_others_get_what_is_left_of_an_offer(
    free: dict[int, int], slots: int | None, held: list[Hold], freed: dict[int, int], place: str
) -> None:
    found = decided([job("other", 8, 1)], [offer("berlin", free, slots=slots)], held, berlin=freed)
    assert found == {"other": place}


def uid(letter: str) -> str:
    return str(UUID(hex=letter * 32))


def moved(
    mover: str, provider: str, *, ended: bool = False, to: str = "", serves: str = "", priority: int = 3
) -> ComputeLease:
    stop = NOW + HOLD / 2
    notice = Notice(
        Announced(MoveReason.PREEMPTED, to, uid(serves) if serves else ""), stop, stop + HOLD, priority, "why"
    )
    spec = {
        "job": {"namespace": "lab", "name": mover, "uid": uid(mover)},
        "attempt": 1,
        "fencingEpoch": 1,
        "provider": provider,
        "product": H100,
        "replicas": 2,
        "gpusPerReplica": 4,
        "pricePerGPUHour": "1",
        "runLimitSeconds": 60,
        "memberNamespace": "lab",
        "workload": {},
        "move": notice.to_wire(),
    }
    state = "Failed" if ended else "Running"
    conditions = [{"type": "Failed", "status": str(ended), "reason": "Any", "lastTransitionTime": stamp(NOW)}]
    status = {"state": state, "conditions": conditions}
    return ComputeLease.parse({"metadata": {"name": f"{mover}-1"}, "spec": spec, "status": status})


def stamp(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def waits(letter: str) -> ComputeJob:
    """A job of 3 × 8 GPUs."""
    template = {"spec": {"containers": [{"name": "x", "image": "x:1"}]}}
    spec = {"gpu": {"count": 8}, "replicas": 3, "runLimitSeconds": 60, "template": template}
    return ComputeJob.parse({"metadata": {"name": letter, "namespace": "lab", "uid": uid(letter)}, "spec": spec})


def test_a_mover_holds_its_new_place_until_it_has_started_there() -> None:
    place = f"paris/{H100}"
    on_its_way = Hold(place, uid("a"), 4, 2, 3, waits=False)
    assert holds([moved("a", "berlin", to=place)], {}, {}, NOW) == (on_its_way,)
    stopped = moved("a", "berlin", to=place, ended=True)
    assert holds([stopped], {uid("a"): waits("a")}, {}, NOW) == (on_its_way._replace(waits=True),)
    assert holds([stopped], {}, {}, NOW) == (), "it has started, or is to run no more"
    assert holds([moved("a", "paris", to=place)], {}, {}, NOW) == (), "its own GPUs are held by itself"
    assert holds([stopped], {uid("a"): waits("a")}, {}, NOW + 2 * HOLD) == ()


def test_room_is_made_by_all_who_go_and_held_for_more_than_each_of_them() -> None:
    leases = [
        moved("d", "oslo", serves="b"),
        moved("c", "oslo", serves="a", priority=2),
        moved("b", "oslo", serves="a", priority=4),
        moved("a", "oslo", serves="a", priority=3, ended=True),
        moved("e", "bergen", serves="a", priority=1),
        moved("f", "oslo", serves="c"),
    ]
    waiting = {uid(letter): waits(letter) for letter in "ab"}
    made = [
        Hold(f"bergen/{H100}", uid("a"), 8, 3, 5, waits=True, after=frozenset({"e-1"})),
        Hold(f"oslo/{H100}", uid("a"), 8, 3, 5, waits=True, after=frozenset({"b-1", "c-1"})),
        Hold(f"oslo/{H100}", uid("b"), 8, 3, 4, waits=True, after=frozenset({"d-1"})),
    ]
    assert list(holds(leases, waiting, {}, NOW)) == made
    known = {uid("a"): job(uid("a"), 8, 70)}
    assert [each.priority for each in holds(leases, waiting, known, NOW)] == [70, 70, 4]


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
