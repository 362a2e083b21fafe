"""Moves of running work: announced, given notice, stopped, placed again; counted in the ledger, safe at every step."""

from __future__ import annotations

from typing import Any

import pytest
from tests.ledgers import attempts_of
from tests.unit.hub.world import H100, PROVIDERS, World

from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.hub.services.priorities import PRIORITY_CLASSES
from fedgpu_operator.hub.views.jobfacts import notice_of

MOVABLE: dict[str, Any] = {
    "disruption": {"reclaimable": True, "noticeSeconds": 60},
    "checkpoint": {"intervalSeconds": 60},
}


async def _classes(world: World) -> None:
    for name, value in (("high", 1000), ("higher", 2000), ("low", -5)):
        meta = {"name": name}
        await world.kube.create(PRIORITY_CLASSES, {"metadata": meta, "value": value, "globalDefault": False})


async def _running(world: World, name: str = "work", *, seconds: int = 10, **spec: Any) -> ComputeLease:
    """The job, placed and running on 8 GPUs."""
    await world.job(name, **{"gpu": {"count": 8}, **MOVABLE, **spec})
    await world.pass_once()
    lease = _lease(world, name)
    await world.runs(lease, 8)
    world.clock.forward(seconds)
    await world.pass_once()
    return _lease(world, name)


def _lease(world: World, name: str) -> ComputeLease:
    return [lease for lease in world.leases if lease.spec.job.name == name][-1]


async def _told(world: World) -> None:
    """`work` runs on all of berlin and was told to go for `urgent`."""
    await _classes(world)
    await world.provider("berlin")
    await _running(world)
    await world.job("urgent", gpu={"count": 8}, priorityClassName="high")
    await world.pass_once()


async def _stopped(world: World, name: str = "work") -> None:
    """Its notice has passed and its member has stopped it."""
    world.clock.forward(61)
    await world.pass_once()
    assert _lease(world, name).spec.desired == "Stop"
    await world.ends(_lease(world, name), "Stopped", gpu_seconds=16)
    await world.pass_once()


async def test_lower_work_gets_notice_goes_and_comes_back(world: World) -> None:
    await _told(world)
    lease = _lease(world, "work")
    assert lease.spec.desired == "Run"
    assert lease.spec.checkpoint_requested_at == world.clock.now(), "its workload is asked to save its work"
    assert ("Warning", "MoveAnnounced") in world.events()
    await world.pass_once()
    assert "will be stopped at 2026-01-01T12:01:10Z" in world.message("Running", "work")
    world.clock.forward(59)
    assert await world.pass_once() == pytest.approx(1.0), "the next step is the stop"
    assert _lease(world, "work").spec.desired == "Run"
    world.clock.forward(1)
    await world.pass_once()
    stopped = _lease(world, "work")
    assert (stopped.spec.desired, stopped.spec.stop_reason) == ("Stop", "Preempted")
    assert world.metrics.moves == {"Preempted": 1}
    assert world.says("Placed", "urgent")[0] == "False", "nothing is sold twice"
    await world.ends(stopped, "Stopped", gpu_seconds=16)
    await world.pass_once()
    assert _lease(world, "urgent").spec.provider == "berlin"
    assert [attempt.outcome for attempt in await attempts_of(world.ledger, world.see("work").metadata.uid)] == [
        "Preempted"
    ]
    assert world.see("work").status.state == "Pending"
    await world.ends(_lease(world, "urgent"), gpu_seconds=8)
    await world.pass_once()
    await world.pass_once()
    assert (_lease(world, "work").spec.attempt, _lease(world, "work").spec.desired) == (2, "Run")


async def test_the_budget_of_disruptions_is_kept_over_restarts(world: World) -> None:
    await _told(world)
    await _stopped(world)
    await world.ends(_lease(world, "urgent"), gpu_seconds=8)
    await world.pass_once()
    await world.pass_once()
    await world.runs(_lease(world, "work"), 8)
    await world.job("again", gpu={"count": 8}, priorityClassName="higher")
    world.clock.forward(120)
    await world.pass_once()
    lease = _lease(world, "work")
    assert (lease.spec.attempt, notice_of(lease)) == (2, None), "it may be moved once, and was"
    assert world.says("Placed", "again") == ("False", "InsufficientGPUs")


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        pytest.param({"disruption": {"reclaimable": False}}, "high", id="not reclaimable"),
        pytest.param({"disruption": {"reclaimable": True, "maxMoves": 0}}, "high", id="no moves"),
        pytest.param({"priorityClassName": "high"}, "high", id="an equal"),
        pytest.param({}, "low", id="a lower one"),
    ],
)
async def test_nobody_is_moved_who_must_not_be(world: World, mine: dict[str, Any], other: str) -> None:
    await _classes(world)
    await world.provider("berlin")
    await _running(world, **mine)
    await world.job("urgent", gpu={"count": 8}, priorityClassName=other)
    await world.pass_once()
    lease = _lease(world, "work")
    assert (lease.spec.desired, lease.spec.move) == ("Run", None)


async def test_a_move_is_called_off_when_it_serves_nobody_any_more(world: World) -> None:
    await _told(world)
    await world.delete("urgent")
    await world.pass_once()
    await world.pass_once()
    assert notice_of(_lease(world, "work")) is None
    assert ("Normal", "MoveCalledOff") in world.events()
    world.clock.forward(120)
    await world.pass_once()
    assert _lease(world, "work").spec.desired == "Run"


async def test_a_free_place_that_appears_saves_the_lower_work(world: World) -> None:
    await _told(world)
    await world.provider("paris", "9.00")
    await world.pass_once()
    assert _lease(world, "urgent").spec.provider == "paris"
    assert notice_of(_lease(world, "work")) is None


async def test_work_that_has_not_started_needs_no_notice(world: World) -> None:
    await _classes(world)
    await world.provider("berlin")
    await world.job("work", gpu={"count": 8}, **MOVABLE)
    await world.pass_once()
    await world.job("urgent", gpu={"count": 8}, priorityClassName="high")
    await world.pass_once()
    lease = _lease(world, "work")
    assert (lease.spec.desired, lease.spec.stop_reason) == ("Stop", "Preempted")


async def test_a_silent_member_is_not_asked_to_stop_anything(world: World) -> None:
    await _classes(world)
    await world.provider("berlin")
    await _running(world)
    await world.ready("berlin", "False", "Unreachable", state="NotReady")
    await world.job("urgent", gpu={"count": 8}, priorityClassName="high")
    await world.pass_once()
    assert notice_of(_lease(world, "work")) is None


async def test_work_at_a_silent_member_follows_no_price(world: World) -> None:
    await world.provider("berlin", "3.00")
    await _running(world, seconds=1000)
    await world.provider("paris", "1.00", country="FR")
    await world.ready("berlin", "False", "Unreachable", state="NotReady")
    await world.pass_once()
    assert notice_of(_lease(world, "work")) is None
    await world.ready("berlin")
    await world.pass_once()
    assert notice_of(_lease(world, "work")) is not None


async def test_a_provider_that_is_judged_anew_changes_nothing_meanwhile(world: World) -> None:
    await _told(world)
    first = notice_of(_lease(world, "work"))
    await world.provider("paris", free={8: 1})
    await world.job("rest", gpu={"count": 8}, **MOVABLE)
    await world.kube.patch(PROVIDERS, "berlin", "", {"spec": {"displayName": "Berlin"}})
    await world.ready("paris", "False", "Unreachable", state="NotReady")
    assert await world.pass_once() == pytest.approx(1.0)
    assert notice_of(_lease(world, "work")) == first
    await world.ready("berlin")
    await world.pass_once()
    assert notice_of(_lease(world, "work")) == first


async def _held(world: World) -> None:
    """`work` leaves berlin for `urgent`; all of boston is held for it, and `late` wants a GPU there."""
    await _classes(world)
    await world.provider("berlin", "1.25", country="DE")
    await world.provider("boston", "1.00", country="US", free={4: 1})
    await world.job("filler", gpu={"count": 4}, placement={"countries": ["US"]})
    await world.pass_once()
    await _running(world, gpu={"count": 4})
    await world.ends(_lease(world, "filler"), gpu_seconds=4)
    await world.pass_once()
    await world.job("urgent", gpu={"count": 8}, priorityClassName="high", placement={"countries": ["DE"]})
    await world.pass_once()
    notice = notice_of(_lease(world, "work"))
    assert notice is not None
    assert notice.move.to == f"boston/{H100}"
    await world.job("late", gpu={"count": 1}, placement={"countries": ["US"]})
    await world.pass_once()
    assert world.says("Placed", "late") == ("False", "InsufficientGPUs")


async def test_the_new_place_is_held_for_the_mover(world: World) -> None:
    await _held(world)
    await _stopped(world)
    assert _lease(world, "urgent").spec.provider == "berlin"
    assert (_lease(world, "work").spec.provider, _lease(world, "work").spec.attempt) == ("boston", 2)


async def test_a_place_is_not_held_for_ever(world: World) -> None:
    await _held(world)
    world.clock.forward(61)
    await world.pass_once()
    assert world.says("Placed", "late")[0] == "False"
    world.clock.forward(150)
    await world.pass_once()
    assert _lease(world, "late").spec.provider == "boston", "its member does not end what it was told to stop"


async def test_the_room_that_is_made_is_not_sold_to_others(world: World) -> None:
    """Four GPUs of the node are free already, the other four become free after the notice."""
    await _classes(world)
    await world.provider("berlin")
    await _running(world, gpu={"count": 4})
    await world.job("urgent", gpu={"count": 8}, priorityClassName="high")
    await world.job("small", gpu={"count": 1})
    await world.pass_once()
    assert [lease.spec.job.name for lease in world.leases] == ["small", "work"], "it was quicker: more must go"
    await world.ends(_lease(world, "small"), gpu_seconds=1)
    await world.pass_once()
    await world.pass_once()
    assert notice_of(_lease(world, "work")) is not None
    await world.job("other", gpu={"count": 1})
    await world.pass_once()
    assert world.says("Placed", "other") == ("False", "InsufficientGPUs")
    await world.job("boss", gpu={"count": 1}, priorityClassName="higher")
    await world.pass_once()
    assert _lease(world, "boss").spec.provider == "berlin", "what is held does not bind a higher one"


@pytest.mark.parametrize(("verb", "plural"), [("patch", "computeleases"), ("create", "events")])
async def test_a_process_that_dies_between_two_steps_repeats_nothing(world: World, verb: str, plural: str) -> None:
    await _classes(world)
    await world.provider("berlin")
    await _running(world)
    await world.job("urgent", gpu={"count": 8}, priorityClassName="high")
    await world.crash(verb, plural)
    await world.pass_once()
    first = notice_of(_lease(world, "work"))
    await world.pass_once()
    assert notice_of(_lease(world, "work")) == first
    world.clock.forward(61)
    await world.crash("patch", "computeleases")
    await world.pass_once()
    assert _lease(world, "work").spec.stop_reason == "Preempted"
    await world.ends(_lease(world, "work"), "Stopped", gpu_seconds=16)
    await world.crash("status", "computejobs")
    await world.pass_once()
    await world.pass_once()
    assert _lease(world, "urgent").spec.desired == "Run"
    attempts = await attempts_of(world.ledger, world.see("work").metadata.uid)
    assert [attempt.outcome for attempt in attempts] == ["Preempted"]


async def test_a_lower_price_moves_work_only_where_it_pays(world: World) -> None:
    await world.provider("berlin", "3.00")
    lease = await _running(world, seconds=1000)
    await world.provider("paris", "2.90", country="FR")
    await world.pass_once()
    assert notice_of(_lease(world, "work")) is None, "a little cheaper is not enough"
    await _price(world, "paris", "1.00")
    await world.pass_once()
    notice = notice_of(_lease(world, "work"))
    assert notice is not None
    assert (notice.move.reason, notice.move.to) == ("Rebalanced", f"paris/{H100}")
    await _stopped(world)
    moved = _lease(world, "work")
    assert (moved.spec.provider, moved.spec.price_per_gpu_hour) == ("paris", "1.00")
    assert moved.metadata.name != lease.metadata.name
    await world.runs(moved, 8)
    await _price(world, "berlin", "0.10")
    world.clock.forward(2000)
    await world.pass_once()
    assert notice_of(_lease(world, "work")) is None, "it may be moved once, and was"


async def _price(world: World, provider: str, price: str) -> None:
    offers = [{"product": H100, "pricePerGPUHour": price}]
    await world.kube.patch(PROVIDERS, provider, "", {"spec": {"offers": offers}})
    await world.ready(provider)


async def test_a_draining_provider_empties_and_gets_nothing_new(world: World) -> None:
    await world.provider("berlin", "1.00", free={8: 2})
    await _running(world)
    await world.job("stays", gpu={"count": 8})
    await world.pass_once()
    await world.provider("paris", "2.00", country="FR")
    await world.kube.patch(PROVIDERS, "berlin", "", {"spec": {"drain": True}})
    await world.ready("berlin")
    await world.pass_once()
    assert ("Normal", "Draining") in world.events()
    await world.job("new", gpu={"count": 1})
    await world.pass_once()
    assert world.says("Placed", "new")[0] == "False", "berlin takes nothing, and paris is held for what leaves"
    await _stopped(world)
    assert _lease(world, "work").spec.provider == "paris"
    assert _lease(world, "stays").spec.desired == "Run"
    await world.kube.patch(PROVIDERS, "berlin", "", {"spec": {"drain": None}})
    await world.ready("berlin")
    await world.pass_once()
    assert _lease(world, "new").spec.provider == "berlin"
