"""What follows an attempt that failed: another place, a place that cools down for the next jobs, or the end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.ledgers import open_attempt
from tests.unit.hub.world import H100, World, condition

from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.domain.attempts import AttemptRequest
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.hub.services.costs import FaultBook


def newest(world: World, name: str = "train") -> ComputeLease:
    return max((each for each in world.leases if each.spec.job.name == name), key=lambda each: each.spec.attempt)


def refused(world: World, provider: str, name: str = "train") -> tuple[str, str]:
    """(reason, message) of that provider's candidate."""
    found = next(each for each in world.see(name).status.candidates if each.provider == provider)
    return found.reason, found.message


@pytest.mark.parametrize("outcome", ["NodeRejected", "StartFailed", "RequirementUnmet", "MemberRejected"])
async def test_a_job_that_one_owners_node_refused_runs_at_another(world: World, outcome: str) -> None:
    await world.provider("broken", "1.00")
    await world.provider("sound", "2.00")
    await world.job()
    await world.pass_once()
    assert world.lease.spec.provider == "broken"
    await world.ends(world.lease, "Failed", outcome)
    await world.pass_once()
    assert (newest(world).spec.provider, newest(world).spec.attempt) == ("sound", 2)
    reason, message = refused(world, "broken")
    assert reason == "CoolingDown"
    assert message.startswith(f"{outcome} at 2026-01-01T12:00:00Z")
    assert message.endswith("the words"), "what the runtime said reaches the tenant"
    assert ("Warning", outcome) in world.events()
    await world.runs(newest(world), 10)
    await world.ends(newest(world), gpu_seconds=10)
    await world.pass_once()
    assert world.see().status.state == "Succeeded"


@pytest.mark.parametrize("restarted", [True, False])
async def test_a_broken_node_does_not_take_every_next_job(world: World, restarted: bool) -> None:
    """It is the cheapest and looks idle: five of five went there."""
    await world.provider("broken", "1.00")
    await world.provider("sound", "2.00", free={8: 2})
    loop = world.loop()
    where = []
    for number in range(5):
        name = f"job-{number}"
        await world.job(name)
        await (world.pass_once() if restarted else loop.pass_once())
        where.append(newest(world, name).spec.provider)
        if where[-1] == "broken":
            await world.ends(newest(world, name), "Failed", "NodeRejected")
            await (world.pass_once() if restarted else loop.pass_once())
        assert newest(world, name).spec.provider == "sound"
    assert where == ["broken", "sound", "sound", "sound", "sound"]
    assert "NodeRejected at" in refused(world, "broken", "job-4")[1]


@pytest.mark.parametrize("restarted", [True, False])
async def test_the_wait_grows_with_each_failure_and_a_success_ends_it(world: World, restarted: bool) -> None:
    await world.provider("only")
    loop = world.loop()

    async def passes() -> None:
        await (world.pass_once() if restarted else loop.pass_once())

    async def goes(name: str) -> None:
        await world.delete(name)
        await passes()
        for lease in world.leases:
            await world.cleared(lease)
        await passes()

    async def fails(name: str) -> float:
        """A job whose attempt fails there, and how long a next one then waits."""
        await world.job(name)
        await passes()
        await world.ends(newest(world, name), "Failed", "NodeRejected")
        await passes()
        assert world.says("Placed", name) == ("False", "CoolingDown")
        await goes(name)
        began = world.clock.now()
        await world.job("next")
        await passes()
        while not world.leases:
            assert world.says("Placed", "next") == ("False", "CoolingDown")
            world.clock.forward(30)
            await passes()
        return (world.clock.now() - began).total_seconds()

    async def stops() -> None:
        await world.change("next", suspend=True)
        await passes()
        await world.ends(world.lease, "Stopped")
        await passes()
        await goes("next")

    assert await fails("a") == 300
    await stops()
    assert await fails("b") == 600
    await world.ends(world.lease)
    await passes()
    await goes("next")
    assert await fails("c") == 300, "one that ran was a new start"


async def test_one_fault_does_not_keep_a_job_from_its_only_place_for_ever(world: World) -> None:
    await world.provider("only")
    await world.job()
    await world.pass_once()
    await world.ends(world.lease, "Failed", "StartFailed")
    await world.pass_once()
    assert world.see().status.state == "Pending"
    status, reason = world.says("Running")
    assert (status, reason) == ("False", "StartFailed")
    assert world.message("Running") == (
        "attempt 1 at only ended as StartFailed: the words; 1 of 20 retries of spec.retries.ownerFaults used"
    )
    world.clock.forward(301)
    await world.pass_once()
    assert newest(world).spec.attempt == 2


async def again(world: World, outcome: str, gpu_seconds: int = 0) -> None:
    """The newest attempt ends so, and the time passes for which its place is avoided."""
    world.clock.forward(gpu_seconds)
    await world.ends(newest(world), "Failed", outcome, gpu_seconds=gpu_seconds)
    await world.pass_once()
    world.clock.forward(300 * 2**6)
    await world.pass_once()


async def test_a_budget_that_is_used_up_ends_the_job_and_says_how_often_it_was_tried(world: World) -> None:
    await world.provider("only")
    await world.job(retries={"infrastructure": 2, "errors": 1})
    await world.pass_once()
    for outcome in ("WorkloadEvicted", "WorkloadFailed", "NodeLost"):
        await again(world, outcome, 30)
    assert newest(world).spec.attempt == 4
    await again(world, "WorkloadEvicted", 30)
    assert world.says("Failed") == ("True", "WorkloadEvicted")
    assert world.message("Failed") == ("the words; 2 of 2 retries of spec.retries.infrastructure used, 4 tries in all")
    assert len(world.leases) == 4
    usage = world.see().status.usage
    assert usage is not None
    assert usage.gpu_seconds == 120


async def test_errors_of_the_workload_end_the_job_unless_it_asks_for_more(world: World) -> None:
    await world.provider("only")
    await world.job()
    await world.pass_once()
    await world.ends(world.lease, "Failed", "WorkloadFailed", gpu_seconds=30)
    await world.pass_once()
    assert world.says("Failed") == ("True", "WorkloadFailed")
    assert world.message("Failed") == "the words"


@pytest.mark.parametrize(
    ("spec", "seconds", "runs"),
    [
        ({"checkpoint": {"intervalSeconds": 600}, "retries": {"infrastructure": 0}}, 600, True),
        ({"checkpoint": {"intervalSeconds": 600}}, 1, True),
        ({"checkpoint": {"intervalSeconds": 600}, "retries": {"infrastructure": 0}}, 599, False),
        ({}, 600, True),
        ({"retries": {"infrastructure": 0}}, 600, False),
    ],
)
async def test_an_evicted_job_runs_again_as_its_price_said(
    world: World, spec: dict[str, Any], seconds: int, runs: bool
) -> None:
    await world.provider("cheap", "1.00")
    await world.provider("other", "2.00")
    await world.job(**spec)
    await world.pass_once()
    world.clock.forward(seconds)
    await world.runs(world.lease, seconds)
    await world.pass_once()
    await world.ends(world.lease, "Failed", "WorkloadEvicted", gpu_seconds=seconds)
    await world.pass_once()
    assert len(world.leases) == (2 if runs else 1)
    if runs:
        assert newest(world).spec.provider == "other"
    else:
        assert world.says("Failed") == ("True", "WorkloadEvicted")


@pytest.mark.parametrize("word", ["Superseded", "Preempted", "Suspended", "WriteRefused", "Succeeded"])
async def test_a_member_cannot_have_a_job_tried_for_ever_with_a_word_of_the_hub(world: World, word: str) -> None:
    await world.provider("liar")
    await world.job()
    await world.pass_once()
    await world.ends(world.lease, "Failed", word, gpu_seconds=30)
    await world.pass_once()
    assert world.says("Failed") == ("True", "Failed")
    assert len(world.leases) == 1


async def test_what_a_member_suspends_shows_on_the_job_and_holds_its_place(world: World) -> None:
    await world.provider("only", free={1: 1})
    await world.job()
    await world.job("other")
    await world.pass_once()
    await world.runs(world.lease, 10)
    await world.pass_once()
    lease, now = world.lease, world.clock.now()
    name = lease.spec.job.name
    conditions = [
        condition("Running", "True", "SuspendedByMember", now),
        condition("Suspended", "True", "SuspendedByMember", now, "the member suspended the workload"),
    ]
    await world._agent(lease, 10, "Suspended", conditions)
    await world.pass_once()
    assert world.see(name).status.state == "Suspended"
    assert world.says("Running", name) == ("False", "SuspendedByMember")
    assert world.message("Running", name) == "the member suspended the workload"
    assert ("Warning", "SuspendedByMember") in world.events()
    assert len(world.leases) == 1, "its GPUs are not free"
    conditions = [
        condition("Running", "True", "Stopping", now),
        condition("Suspended", "True", "SuspendedByMember", now),
        condition("Failed", "False", "SuspendedByMember", now),
    ]
    await world._agent(lease, 10, "Stopping", conditions)
    world.clock.forward(600)
    await world.pass_once()
    assert len(world.leases) == 1, "nor while its end is not confirmed"
    await world.ends(lease, "Failed", "SuspendedByMember", gpu_seconds=10)
    await world.pass_once()
    assert sorted(each.spec.attempt for each in world.leases) == [1, 1], "the other job has them"
    assert world.says("Running", name) == ("False", "SuspendedByMember")
    await world.ends(newest(world, "other" if name == "train" else "train"), gpu_seconds=1)
    world.clock.forward(301)
    await world.pass_once()
    await world.pass_once()
    assert newest(world, name).spec.attempt == 2, "coming back is a new attempt"


async def test_the_book_of_faults_is_the_same_after_a_restart(world: World) -> None:
    ends = [("NodeRejected", 5), ("NodeRejected", 3), ("WorkloadFailed", 2), ("Succeeded", 1)]
    lived = FaultBook(world.ledger, world.clock, timedelta(minutes=5))
    await lived.look()
    for number, (outcome, minutes) in enumerate(ends):
        uid = str(number) * 36
        request = AttemptRequest(uid, "r", "team-a", "train", "berlin", H100, MicroUSD(1), 1, 9)
        then = world.clock.now() - timedelta(minutes=minutes)
        attempt = await open_attempt(world.ledger, request, then - timedelta(minutes=1))
        lived.note(await world.ledger.end_attempt(attempt.lease_name, outcome, then))
        restarted = FaultBook(world.ledger, world.clock, timedelta(minutes=5))
        await restarted.look()
        for tenant in ("team-a", "team-b"):
            assert dict(lived.cooling(tenant, world.clock.now())) == dict(
                restarted.cooling(tenant, world.clock.now())
            ), f"after {outcome}"
        await lived.look()
