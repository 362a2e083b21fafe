"""What the loops report of the queue: who waits and why, for how long jobs waited, and what was stopped."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.hub.bank import Bank
from tests.unit.hub.world import TEAM, World

from fedgpu_operator.api.base import Condition
from fedgpu_operator.domain.settlement import EpochStage


async def test_jobs_that_wait_are_counted_by_namespace_and_reason(world: World) -> None:
    await world.namespace("other")
    await world.job("one")
    await world.job("two", namespace="other")
    await world.job("three", namespace="other", suspend=True)
    await world.pass_once()
    await world.pass_once()
    reason = world.see("one").status.reason
    assert reason
    assert world.metrics.waiting == {(TEAM, reason): 1, ("other", reason): 1}
    await world.provider("berlin")
    await world.pass_once()
    await world.pass_once()
    assert world.metrics.waiting == {}


async def test_a_job_that_its_member_suspended_for_good_is_counted_while_it_waits_for_its_retry(world: World) -> None:
    await world.provider("berlin")
    await world.job()
    await world.pass_once()
    await world.runs(world.lease, 8)
    await world.ends(world.lease, "Failed", "SuspendedByMember", gpu_seconds=8)
    for _ in range(2):
        await world.pass_once()
    assert world.says("Running") == ("False", "SuspendedByMember")
    assert world.metrics.waiting == {(TEAM, "CoolingDown"): 1}


@pytest.mark.parametrize(("suspend", "state"), [(False, "Running"), (True, "Pending")])
async def test_a_job_that_is_being_deleted_waits_for_no_place(world: World, suspend: bool, state: str) -> None:
    await world.provider("berlin")
    await world.job()
    await world.pass_once()
    await world.runs(world.lease, 8)
    await world.pass_once()
    if suspend:
        await world.change("train", suspend=True)
        await world.pass_once()
        await world.ends(world.lease, "Stopped", "Stopped", gpu_seconds=8)
        await world.pass_once()
        # Its lease is made again, so that the member clears what it may have left: until then the job stays.
        world.lose(world.lease)
    await world.delete("train")
    for _ in range(2):
        await world.pass_once()
    status = world.see().status
    assert (status.state, status.reason) == (state, "Deleting")
    assert world.metrics.waiting == {}


async def test_the_wait_of_a_job_begins_with_its_creation(world: World) -> None:
    await world.job()
    world.clock.forward(40)
    await world.provider("berlin")
    await world.pass_once()
    assert world.metrics.waits == [(TEAM, 40)]
    await world.pass_once()
    assert len(world.metrics.waits) == 1, "a job that runs is not admitted again"


async def test_the_wait_of_a_job_begins_again_with_the_end_of_its_attempt(world: World) -> None:
    await world.provider("berlin")
    await world.job()
    await world.pass_once()
    world.clock.forward(300)
    await world.change("train", suspend=True)
    await world.pass_once()
    await world.ends(world.lease, "Stopped")
    await world.pass_once()
    world.clock.forward(60)
    await world.change("train", suspend=False)
    await world.pass_once()
    assert world.metrics.waits == [(TEAM, 0), (TEAM, 60)]


async def test_an_attempt_that_the_hub_stops_is_evicted_once(world: World) -> None:
    await world.provider("berlin")
    await world.job()
    await world.pass_once()
    await world.runs(world.lease)
    assert not world.metrics.evictions
    await world.change("train", suspend=True)
    for _ in range(3):
        await world.pass_once()
    assert world.metrics.evictions == {"Suspended": 1}


async def test_work_that_ends_by_itself_is_not_evicted(world: World) -> None:
    await world.provider("berlin")
    await world.job()
    await world.pass_once()
    await world.ends(world.lease)
    await world.pass_once()
    assert not world.metrics.evictions


async def test_a_provider_counts_as_connected_by_its_condition(world: World) -> None:
    await world.provider("berlin")
    await world.provider("oslo")
    found = world.kube.objects["gpuproviders", "", "oslo"]
    now = world.clock.now()
    made = Condition(type="Connected", status="True", reason="Answering", message="", last_transition_time=now)
    found["status"]["conditions"].append(made.to_wire())
    await world.pass_once()
    assert world.metrics.connected == {"berlin": False, "oslo": True}


async def test_an_epoch_is_due_so_long_after_the_first_work(world: World) -> None:
    bank, at_most = Bank(world), timedelta(days=7)
    await bank.step()
    assert world.metrics.due is None, "there is nothing to settle"
    began = world.clock.now()
    await bank.used(3600)
    await bank.step()
    assert world.metrics.due == began + at_most


async def test_no_epoch_is_due_while_nothing_is_owed_beyond_the_last_one(bank: Bank) -> None:
    await bank.to_the_end()
    (epoch,) = await bank.ledger.epochs(1)
    assert epoch.stage is EpochStage.PAID
    assert bank.world.metrics.due is None, "it would be overdue for ever, with everything paid"
    await bank.used(3600, "second")
    await bank.step()
    assert bank.world.metrics.due == epoch.created_at + bank.terms.at_most


async def test_work_that_can_owe_nobody_makes_no_epoch_due(world: World) -> None:
    bank = Bank(world)
    await bank.used(3600, "without wallets", wallets=("", ""))
    await bank.used(3600, "without a price", price=0)
    await bank.step()
    assert world.metrics.due is None


async def test_an_epoch_is_due_so_long_after_the_one_before(bank: Bank) -> None:
    await bank.step()
    (epoch,) = await bank.ledger.epochs(1)
    bank.world.clock.forward(5)
    await bank.used(3600, "second")
    await bank.step()
    assert bank.world.metrics.due == epoch.created_at + bank.terms.at_most
