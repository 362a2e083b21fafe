"""The job loop follows runs to their ends: billed once, stopped when they must, let go when all is in the books."""

from __future__ import annotations

from tests.ledgers import attempts_of, open_attempt
from tests.unit.hub.world import COMPUTE_JOBS, LEASES, TEAM, World, condition

from fedgpu_operator.domain.attempts import AttemptRequest
from fedgpu_operator.domain.money import MicroUSD


async def _deleted_at_a_silent_member(world: World) -> None:
    """A job that has finished, and was deleted while its member was away."""
    await world.placed()
    await world.ends(world.lease, gpu_seconds=1)
    await world.pass_once()
    await world.ready("berlin", "Unknown", "MemberSilent", state="Unreachable")
    await world.delete("train")
    await world.pass_once()


async def test_from_running_to_succeeded_with_the_exact_bill(world: World) -> None:
    await world.provider("berlin", "1.25")
    await world.job(gpu={"count": 4})
    await world.pass_once()
    world.clock.forward(5)
    await world.runs(world.lease, 20)
    await world.pass_once()
    assert world.see().status.state == "Running"
    assert world.says("Running") == ("True", "Running")
    world.clock.forward(6)
    await world.ends(world.lease, gpu_seconds=44)
    await world.pass_once()
    status = world.see().status
    assert status.state == "Succeeded"
    assert world.says("Complete") == ("True", "Succeeded")
    assert status.usage is not None
    # floor(1_250_000 µUSD/h x 44 GPU-s / 3600 s/h)
    assert (status.usage.gpu_seconds, status.usage.cost) == (44, "0.015277")
    assert status.completion_time is not None
    assert status.reason == "Succeeded"
    assert world.metrics.gpu_seconds["berlin"] == 44
    await world.pass_once()
    assert world.metrics.gpu_seconds["berlin"] == 44, "billed once"


async def test_a_member_cannot_bill_more_than_the_hubs_own_clock_saw(world: World) -> None:
    await world.placed()
    world.clock.forward(10)
    await world.ends(world.lease, gpu_seconds=86_400)
    await world.pass_once()
    usage = world.see().status.usage
    assert usage is not None
    assert usage.gpu_seconds == 10


async def test_a_failed_workload_ends_the_job_with_its_reason(world: World) -> None:
    await world.placed()
    world.clock.forward(2)
    await world.ends(world.lease, "Failed", "ExitCode", gpu_seconds=2)
    await world.pass_once()
    await world.pass_once()
    assert world.see().status.state == "Failed"
    assert world.says("Failed") == ("True", "ExitCode")
    assert world.message("Failed") == "the words"
    assert world.see().status.reason == "ExitCode", "the column shows why it failed, not why it was placed"
    assert len(world.leases) == 1


async def test_suspension_stops_the_attempt_and_resuming_gives_the_next_one(world: World) -> None:
    await world.placed()
    first = world.lease
    world.clock.forward(4)
    await world.runs(first, 4)
    await world.change("train", suspend=True)
    await world.pass_once()
    stopped = world.lease
    assert (stopped.spec.desired, stopped.spec.stop_reason) == ("Stop", "Suspended")
    assert stopped.spec.stop_requested_at == world.clock.now()
    assert world.see().status.state == "Running", "it is not suspended before it has stopped"
    world.clock.forward(2)
    await world.ends(stopped, "Stopped", gpu_seconds=6)
    await world.pass_once()
    assert world.see().status.state == "Suspended"
    assert world.says("Running") == ("False", "Suspended")
    assert world.says("Failed") == ("", "")
    world.clock.forward(100)
    await world.pass_once()
    assert world.see().status.usage is not None
    await world.change("train", suspend=False)
    await world.pass_once()
    newest = world.leases[-1]
    assert (newest.spec.attempt, newest.spec.fencing_epoch, newest.spec.desired) == (2, 2, "Run")
    world.clock.forward(1)
    await world.ends(newest, gpu_seconds=1)
    await world.pass_once()
    usage = world.see().status.usage
    assert usage is not None
    assert usage.gpu_seconds == 7, "six of the first attempt, one of the second"


async def test_a_deleted_job_stops_is_billed_and_only_then_goes(world: World) -> None:
    await world.placed()
    uid = world.see().metadata.uid
    world.clock.forward(5)
    await world.runs(world.lease, 5)
    await world.delete("train")
    await world.pass_once()
    assert world.exists()
    assert (world.lease.spec.desired, world.lease.spec.stop_reason) == ("Stop", "Deleted")
    world.clock.forward(3)
    await world.ends(world.lease, "Stopped", gpu_seconds=8)
    await world.pass_once()
    assert not world.exists()
    await world.pass_once()
    assert world.leases == []
    (attempt,) = await attempts_of(world.ledger, uid)
    assert attempt.outcome == "Deleted"
    last = await world.ledger.last_usage(attempt.lease_name)
    assert last is not None
    assert last.gpu_seconds == 8


async def test_a_deleted_job_stays_while_its_workload_takes_its_time_to_stop(world: World) -> None:
    await world.placed()
    await world.runs(world.lease, 1)
    await world.delete("train")
    await world.pass_once()
    await world.runs(world.lease, 2)
    await world.cleared(world.lease)
    await world.pass_once()
    assert world.exists(), "the agent knows of the stop, the workload still runs"
    assert len(world.leases) == 1
    assert len(await world.ledger.open_attempts()) == 1


async def test_the_books_stay_open_until_the_last_reading(world: World) -> None:
    await world.placed()
    world.clock.forward(5)
    await world.ends(world.lease, gpu_seconds=3, final=False)
    await world.pass_once()
    assert world.see().status.state == "Placed"
    assert len(await world.ledger.open_attempts()) == 1
    await world.ends(world.lease, gpu_seconds=5)
    await world.pass_once()
    status = world.see().status
    assert (status.state, status.usage.gpu_seconds if status.usage else 0) == ("Succeeded", 5)


async def test_a_reading_that_falls_takes_nothing_back_and_stops_nothing(world: World) -> None:
    """An agent that lost its memory reads less than was billed before."""
    await world.placed()
    for gpu_seconds in (8, 3, 4):
        world.clock.forward(10)
        await world.runs(world.lease, gpu_seconds)
        await world.pass_once()
        usage = world.see().status.usage
        assert usage is not None
        assert usage.gpu_seconds == 8
    await world.ends(world.lease, gpu_seconds=5)
    await world.pass_once()
    assert world.see().status.state == "Succeeded", "the books are closed all the same"
    assert world.metrics.gpu_seconds["berlin"] == 8


async def test_a_finished_jobs_lease_is_stopped_first_so_that_the_agent_clears_the_member(world: World) -> None:
    await world.placed()
    world.clock.forward(3)
    await world.ends(world.lease, gpu_seconds=3)
    await world.pass_once()
    await world.delete("train")
    await world.pass_once()
    assert world.exists(), "the agent has not answered yet"
    assert world.lease.spec.desired == "Stop"
    await world.cleared(world.lease)
    await world.pass_once()
    assert not world.exists()
    await world.pass_once()
    assert world.leases == []


async def test_deleting_a_finished_job_does_not_wait_for_a_member_that_is_away(world: World) -> None:
    """Its tombstone stays until the member has come back and cleared what is left there."""
    await _deleted_at_a_silent_member(world)
    assert not world.exists()
    for _ in range(3):
        await world.pass_once()
        assert (world.lease.spec.desired, world.lease.spec.stop_reason) == ("Stop", "Deleted")
    await world.ready("berlin")
    await world.cleared(world.lease)
    await world.pass_once()
    assert world.leases == []


async def test_a_tombstone_goes_with_its_provider(world: World) -> None:
    await _deleted_at_a_silent_member(world)
    del world.kube.objects["gpuproviders", "", "berlin"]
    await world.pass_once()
    assert world.leases == [], "nobody is left who could clear the member"


async def test_a_deleted_job_clears_its_member_though_its_lease_was_deleted_by_hand(world: World) -> None:
    await world.placed()
    await world.ends(world.lease, gpu_seconds=1)
    await world.pass_once()
    lease = world.lease
    world.lose(lease)
    await world.delete("train")
    await world.pass_once()
    assert world.exists(), "its workload may still lie on the member"
    assert (world.lease.spec.desired, world.lease.spec.workload) == ("Stop", None)
    await world.ends(world.lease, "Stopped")
    for _ in range(2):
        await world.pass_once()
    assert not world.exists()
    assert world.leases == []


async def test_a_lease_that_is_made_again_carries_the_stop_that_is_due(world: World) -> None:
    await world.placed()
    lease = world.lease
    await world.runs(lease, 1)
    await world.change("train", suspend=True)
    world.lose(lease)
    world.clock.forward(5)
    await world.pass_once()
    first = world.lease
    assert (first.spec.desired, first.spec.stop_reason, first.spec.workload) == ("Stop", "Suspended", None)
    assert first.spec.stop_requested_at == world.clock.now()
    # What was stopped once stays stopped, though the reason for it has gone meanwhile.
    await world.change("train", suspend=False)
    world.lose(lease)
    world.clock.forward(5)
    await world.pass_once()
    again = world.lease
    assert (again.spec.desired, again.spec.stop_reason) == ("Stop", "Suspended")
    assert again.spec.stop_requested_at == first.spec.stop_requested_at


async def test_an_attempt_whose_job_and_lease_are_gone_is_stopped_billed_and_closed(world: World) -> None:
    await world.placed()
    job, lease = world.see(), world.lease
    await world.runs(lease, 1)
    await world.pass_once()
    world.kube.objects.pop((COMPUTE_JOBS.plural, TEAM, "train"))
    world.lose(lease)
    world.clock.forward(4)
    await world.pass_once()
    again = world.lease
    assert (again.metadata.name, again.spec.desired, again.spec.stop_reason) == (lease.metadata.name, "Stop", "JobGone")
    assert again.spec.workload is None
    assert again.spec.gpus == lease.spec.gpus
    await world.ends(again, "Stopped", gpu_seconds=4)
    await world.pass_once()
    (attempt,) = await attempts_of(world.ledger, job.metadata.uid)
    assert attempt.outcome == "JobGone"
    usage = await world.ledger.lease_usage(attempt.lease_name)
    assert usage is not None
    assert usage.gpu_seconds == 4
    await world.pass_once()
    assert world.leases == []


async def test_a_pending_job_is_deleted_without_more_ado(world: World) -> None:
    await world.job()
    await world.pass_once()
    await world.delete("train")
    await world.pass_once()
    assert not world.exists()


async def test_the_deadline_is_asked_for_and_stops_a_running_job(world: World) -> None:
    await world.provider("berlin")
    await world.job(deadline="2026-01-01T12:00:30Z")
    await world.pass_once()
    assert await world.pass_once() == 30
    world.clock.forward(30)
    await world.runs(world.lease, 30)
    await world.pass_once()
    assert (world.lease.spec.desired, world.lease.spec.stop_reason) == ("Stop", "DeadlineExceeded")
    await world.ends(world.lease, "Stopped", gpu_seconds=30)
    await world.pass_once()
    await world.pass_once()
    assert world.see().status.state == "Failed"
    assert world.says("Failed") == ("True", "DeadlineExceeded")
    assert len(world.leases) == 1


async def test_a_rejection_by_the_member_is_placed_elsewhere_and_asked_again_after_the_cooldown(world: World) -> None:
    await world.provider("near", "1.00")
    await world.provider("far", "2.00")
    await world.job()
    await world.pass_once()
    await world.ends(world.lease, "Failed", "MemberRejected")
    await world.pass_once()
    second = world.leases[-1]
    assert (second.spec.provider, second.spec.attempt) == ("far", 2)
    refused = {c.provider: c.reason for c in world.see().status.candidates}
    assert refused["near"] == "CoolingDown"
    await world.ends(second, "Failed", "MemberRejected")
    await world.pass_once()
    assert world.says("Placed") == ("False", "CoolingDown")
    assert world.see().status.state == "Pending"
    world.clock.forward(301)
    await world.pass_once()
    assert {lease.spec.attempt for lease in world.leases} == {1, 2, 3}
    third = next(lease for lease in world.leases if lease.spec.attempt == 3)
    assert third.spec.provider == "near"


async def test_even_after_a_hundred_attempts_there_is_a_new_one(world: World) -> None:
    await world.provider("berlin")
    job = await world.job()
    for number in range(101):
        request = AttemptRequest(job.metadata.uid, f"after-{number}", "team-a", "train", "away", "x", MicroUSD(1), 1, 9)
        attempt = await open_attempt(world.ledger, request, world.clock.now())
        await world.ledger.record_usage(attempt.lease_name, 1, 3600, world.clock.now())
        await world.ledger.end_attempt(attempt.lease_name, "Suspended", world.clock.now())
        world.clock.forward(1)
    await world.pass_once()
    assert world.lease.spec.attempt == 102
    await world.pass_once()
    usage = world.see().status.usage
    assert usage is not None
    assert usage.cost == "0.000101", "all attempts count"


async def test_a_silent_provider_leaves_its_running_job_alone(world: World) -> None:
    await world.placed()
    await world.runs(world.lease, 1)
    await world.pass_once()
    await world.ready("berlin", "Unknown", "MemberSilent", state="Unreachable")
    await world.provider("other", "0.50")
    world.clock.forward(7200)
    await world.pass_once()
    assert world.see().status.state == "Running"
    assert world.lease.spec.provider == "berlin"
    assert world.lease.spec.desired == "Run"


async def test_a_stop_that_is_only_on_the_lease_counts_from_when_it_was_set(world: World) -> None:
    """Set by hand, or by a release that kept no stops in the ledger."""
    await world.placed()
    lease = world.lease
    world.clock.forward(60)
    await world.runs(lease, 60)
    stamp = world.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    stop = {"desired": "Stop", "stopReason": "Suspended", "stopRequestedAt": stamp}
    await world.kube.patch(LEASES, lease.metadata.name, lease.metadata.namespace, {"spec": stop})
    world.clock.forward(1800)
    await world.runs(world.lease, 1860)
    await world.pass_once()
    (entry,) = await world.ledger.open_attempts()
    assert entry.attempt.stop is not None
    assert entry.attempt.stop.reason == "Suspended"
    assert entry.gpu_seconds == 60 + 30, "until the stop, and the termination grace after it"


async def test_what_was_said_to_have_failed_for_good_is_not_brought_back_by_another_table(world: World) -> None:
    await world.placed()
    lease = world.lease
    world.clock.forward(5)
    await world.ends(lease, "Failed", "WorkloadEvicted", gpu_seconds=5)
    await world.ledger.end_attempt(lease.metadata.name, "WorkloadEvicted", world.clock.now())
    said = {"state": "Failed", "conditions": [condition("Failed", "True", "WorkloadEvicted", world.clock.now())]}
    await world.kube.patch_status(COMPUTE_JOBS, "train", TEAM, {"status": said})
    world.clock.forward(86_400)
    for suspend in (True, False):
        await world.change("train", suspend=suspend)
        await world.pass_once()
    assert len(await attempts_of(world.ledger, world.see().metadata.uid)) == 1
    assert world.says("Failed") == ("True", "WorkloadEvicted")


async def test_a_failed_attempt_keeps_no_workload_while_the_job_is_tried_elsewhere(world: World) -> None:
    await world.provider("near", "1.00")
    await world.provider("far", "2.00")
    await world.job()
    await world.pass_once()
    await world.ends(world.lease, "Failed", "NodeRejected")
    await world.pass_once()
    first, second = world.leases
    assert (first.spec.workload, first.spec.desired) == (None, "Run")
    assert second.spec.workload is not None
