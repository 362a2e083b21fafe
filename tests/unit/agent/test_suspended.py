"""A Job that its member suspends: shown, not metered, ended after a while, and its GPUs free only when it is gone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.unit.agent.test_lease import Bench

from fedgpu_operator.agent.decide import ConditionState
from fedgpu_operator.agent.pods import suspended
from fedgpu_operator.agent.watch import KEPT
from fedgpu_operator.api.base import JSONObject, find
from fedgpu_operator.ports import BATCH_JOBS

RUNNING = {"Accepted": ConditionState("True", "Accepted"), "Running": ConditionState("True", "Running")}
ACCEPTED = {"Accepted": ConditionState("True", "Accepted"), "Running": ConditionState("False", "Waiting")}
GRACE = 120


def job(make: Any, suspend: bool = True) -> JSONObject:
    """The Job as the agent holds it: with the wish, and a moment later with the controller's condition."""
    conditions = [("Suspended", "JobSuspended")] if suspend else []
    return {**make.member_job(*conditions), "spec": {"suspend": suspend}}


def state(lease: Bench) -> str:
    return lease.lease.status.state


def bench(make: Any, **verdicts: Any) -> Bench:
    return Bench(make, make.lease(verdicts=verdicts.get("verdicts", RUNNING), workload_uid="job-uid"))


async def later(lease: Bench, seconds: float, **seen: Any) -> list[str]:
    lease.clock.at += timedelta(seconds=seconds)
    return await lease.step(**seen)


def test_the_wish_counts_before_the_controller_has_acted_and_the_condition_where_no_wish_is_known(make: Any) -> None:
    assert suspended({"spec": {"suspend": True}, "status": {}})
    assert not suspended({**make.member_job(("Suspended", "JobSuspended")), "spec": {"suspend": False}})
    assert suspended(make.member_job(("Suspended", "JobSuspended")))
    assert not suspended(make.member_job())


def test_what_is_held_of_a_job_says_whether_it_is_suspended() -> None:
    for suspend in (True, False):
        sent = {"metadata": {"name": "x"}, "spec": {"suspend": suspend, "template": {}}, "status": {}}
        assert suspended(KEPT[BATCH_JOBS](sent)) == suspend


async def test_a_suspension_shows_at_the_next_look_and_is_not_metered(make: Any) -> None:
    lease = bench(make)
    await lease.step(job=job(make, False), pods=(make.pod(ago=10),))
    assert await later(lease, 1, job=job(make), pods=()) == ["status"]
    assert state(lease) == "Suspended"
    assert (lease.reason("Suspended"), lease.reason("Running")) == ("SuspendedByMember", "SuspendedByMember")
    billed = lease.lease.status.usage.gpu_seconds
    assert await later(lease, 100, job=job(make), pods=()) == []
    assert lease.lease.status.usage.gpu_seconds == billed == 10
    assert not lease.lease.status.usage.final


async def test_pods_that_come_back_are_metered_and_the_wait_begins_again(make: Any) -> None:
    lease = bench(make)
    await lease.step(job=job(make, False), pods=(make.pod(uid="a", ago=10),))
    await later(lease, 1, job=job(make), pods=())
    await later(lease, GRACE - 100, job=job(make, False), pods=(make.pod(uid="b", ago=-21),))
    assert state(lease) == "Running"
    suspension = find(lease.lease.status.conditions, "Suspended")
    assert suspension is not None
    assert (suspension.status, suspension.reason) == ("False", "Resumed")
    await later(lease, 15, job=job(make, False), pods=(make.pod(uid="b", ago=-21),))
    assert lease.lease.status.usage.gpu_seconds == 10 + 15
    await later(lease, 1, job=job(make), pods=())
    await later(lease, 1, job=job(make), pods=())
    assert state(lease) == "Suspended"


async def test_after_the_grace_it_ends_only_when_nothing_is_left(make: Any) -> None:
    lease = bench(make)
    await lease.step(job=job(make, False), pods=(make.pod(ago=10),))
    await later(lease, 1, job=job(make), pods=())
    assert await later(lease, GRACE - 1, job=job(make), pods=()) == []
    assert await later(lease, 1, job=job(make), pods=()) == ["status", "delete Job job-uid"]
    assert (state(lease), lease.lease.status.ended) == ("Stopping", False)
    # The member resumes it in that moment, before it takes the deletion.
    back = make.pod(uid="b", ago=-122)
    assert await later(lease, 10, job=job(make, False), pods=(back,)) == ["status", "delete Job job-uid"]
    assert not lease.lease.status.ended
    going = {**job(make, False)}
    going["metadata"] = {**going["metadata"], "deletionTimestamp": "2026-01-01T12:02:15Z"}
    await later(lease, 10, job=going, pods=(back,))
    assert not lease.lease.status.ended
    await later(lease, 1, job=None, pods=(back,))
    assert not lease.lease.status.ended, "a pod that lost its Job still holds its GPUs"
    await later(lease, 1, job=None, pods=())
    assert state(lease) == "Failed"
    assert lease.reason("Failed") == "SuspendedByMember"
    assert lease.lease.status.usage.final
    assert lease.lease.status.usage.gpu_seconds == 10 + 20, "what ran meanwhile is billed"


async def test_a_new_agent_goes_on_with_the_wait_of_the_last_one(make: Any) -> None:
    since = {**RUNNING, "Suspended": ConditionState("True", "SuspendedByMember")}
    lease = Bench(make, make.lease(verdicts=since, since=GRACE, workload_uid="job-uid"))
    assert "delete Job job-uid" in await lease.step(job=job(make), pods=())


async def test_a_suspension_outlives_no_run_limit_and_is_no_part_of_it(make: Any) -> None:
    """The Job's own deadline starts again with every resumption: the agent's does not. The limit here is 60 s."""
    lease = bench(make)
    await lease.step(job=job(make, False), pods=(make.pod(uid="a", ago=0),))
    await later(lease, 30, job=job(make, False), pods=(make.pod(uid="a", ago=0),))
    await later(lease, 0, job=job(make), pods=())
    await later(lease, 100, job=job(make), pods=())
    assert state(lease) == "Suspended"
    await later(lease, 1, job=job(make, False), pods=())
    assert state(lease) == "Pending", "it does not run before its pods do"
    await later(lease, 10, job=job(make, False), pods=(make.pod(uid="b", ago=-141),))
    assert "delete Job job-uid" not in await later(lease, 29, job=job(make, False), pods=(make.pod(uid="b", ago=-141),))
    assert "delete Job job-uid" in await later(lease, 1, job=job(make, False), pods=(make.pod(uid="b", ago=-141),))
    assert lease.reason("Failed") == "RunLimitExceeded"


async def test_two_pods_of_one_replica_share_its_run_limit(make: Any) -> None:
    """Also for a new agent, which has only the readings: 40 s and 20 s of one index are the whole minute."""
    first, second = make.pod(uid="a", ago=40, phase="Failed", exit_code=143), make.pod(uid="b", ago=20)
    lease = Bench(make, make.lease(verdicts=RUNNING, since=20, workload_uid="job-uid"))
    assert "delete Job job-uid" in await lease.step(job=job(make, False), pods=(first, second))
    apart = Bench(make, make.lease(replicas=2, verdicts=RUNNING, since=20, workload_uid="job-uid"))
    second = make.pod(uid="b", index=1, ago=20)
    assert "delete Job job-uid" not in await apart.step(job=job(make, False), pods=(first, second))


@pytest.mark.parametrize("waited", [31, 100])
async def test_what_is_suspended_before_it_ever_ran_is_no_rejection(make: Any, waited: float) -> None:
    """A member that queues Jobs suspends them at creation: it gets the grace, and its pods their time after that."""
    lease = Bench(make, make.lease(verdicts=ACCEPTED, workload_uid="job-uid"))
    await lease.step(job=job(make), pods=())
    assert state(lease) == "Suspended"
    assert await later(lease, waited, job=job(make), pods=()) == []
    await later(lease, 1, job=job(make, False), pods=())
    assert state(lease) == "Pending"
    await later(lease, 29, job=job(make, False), pods=())
    assert state(lease) == "Pending"
    await later(lease, 1, job=job(make, False), pods=())
    assert lease.reason("Failed") == "MemberRejected"


async def test_a_stop_of_the_hub_goes_before_a_suspension(make: Any) -> None:
    lease = Bench(make, make.lease(desired="Stop", verdicts=RUNNING, workload_uid="job-uid"))
    assert await lease.step(job=job(make), pods=()) == ["status", "delete Job job-uid"]
    await later(lease, 1, job=None, pods=())
    assert state(lease) == "Stopped"
