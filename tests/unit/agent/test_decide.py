"""Each step of a lease: what is written and done for what is seen."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from fedgpu_operator.agent.decide import ConditionState, LeaseDecision, View, decide, update
from fedgpu_operator.agent.pods import pod_facts
from fedgpu_operator.agent.settings import AgentSettings
from fedgpu_operator.api.computelease import ComputeLease, lease_state
from fedgpu_operator.domain.usage import UsageReading
from fedgpu_operator.metering import measure

SETTINGS = AgentSettings("ns", "hub", reject_after=30, image_after=120)
ACCEPTED = {"Accepted": ConditionState("True", "Accepted"), "Running": ConditionState("False", "Waiting")}
RUNNING = {"Accepted": ConditionState("True", "Accepted"), "Running": ConditionState("True", "Running")}
STOPPING = {"Accepted": ConditionState("True", "Accepted"), "Running": ConditionState("True", "Stopping")}
LIMIT = {**STOPPING, "Failed": ConditionState("False", "RunLimitExceeded", "over")}


class Case:
    """A view and what `decide` makes of it."""

    def __init__(self, make: Any, lease: ComputeLease, **parts: Any) -> None:
        pods, gone = parts.pop("pods", ()), parts.pop("gone", ())
        reading: UsageReading = parts.pop("reading", None) or measure(map(pod_facts, pods + gone), make.now, None)
        job = parts.pop("job", None)
        self.view = View(lease=lease, job=job, pods=pods, gone=gone, reading=reading, now=make.now, **parts)
        self.decision: LeaseDecision = decide(self.view, SETTINGS)

    @property
    def conditions(self) -> list[Any]:
        lease = self.view.lease
        return update(lease.status.conditions, self.decision.verdicts, now=self.view.now, generation=1)

    @property
    def state(self) -> str:
        return lease_state(self.conditions)

    def reason(self, kind: str) -> str:
        return next((c.reason for c in self.conditions if c.type == kind), "")


def test_a_new_lease_is_created_and_a_stopped_one_is_not(make: Any) -> None:
    assert Case(make, make.lease()).decision.create
    stopped = Case(make, make.lease(desired="Stop"))
    assert not stopped.decision.create
    assert stopped.state == "Stopped"


def test_an_older_fencing_epoch_never_starts(make: Any) -> None:
    fenced = Case(make, make.lease(epoch=1), newest_fencing_epoch=2)
    assert not fenced.decision.create
    assert (fenced.state, fenced.reason("Failed")) == ("Failed", "LeaseFenced")
    assert Case(make, make.lease(epoch=2), newest_fencing_epoch=2).decision.create


def test_what_was_seen_once_is_never_created_again(make: Any) -> None:
    by_record = Case(make, make.lease(workload_uid="job-uid", verdicts=RUNNING))
    by_pods = Case(make, make.lease(), gone=(make.pod(phase="Failed", exit_code=1),))
    for case in (by_record, by_pods):
        assert not case.decision.create
        assert (case.state, case.reason("Failed")) == ("Failed", "WorkloadVanished")


def test_pods_that_lost_their_job_are_removed_before_the_lease_ends(make: Any) -> None:
    case = Case(make, make.lease(workload_uid="job-uid", verdicts=RUNNING), pods=(make.pod(),))
    assert case.decision.remove
    assert (case.state, case.reason("Failed")) == ("Stopping", "WorkloadVanished")


def test_it_runs_from_the_first_start(make: Any) -> None:
    waiting = Case(make, make.lease(verdicts=ACCEPTED), job=make.member_job(), pods=(make.pod(ago=None),))
    assert waiting.state == "Pending"
    running = Case(make, make.lease(verdicts=ACCEPTED), job=make.member_job(), pods=(make.pod(),))
    assert running.state == "Running"
    assert not running.decision.remove


def test_it_ends_as_the_job_ended(make: Any) -> None:
    done = (make.pod(phase="Succeeded", exit_code=0),)
    case = Case(make, make.lease(verdicts=RUNNING), job=make.member_job(("Complete", "")), pods=done)
    assert case.state == "Succeeded"
    bad = (make.pod(phase="Failed", exit_code=3),)
    case = Case(make, make.lease(verdicts=RUNNING), job=make.member_job(("Failed", "BackoffLimitExceeded")), pods=bad)
    assert (case.state, case.reason("Failed")) == ("Failed", "WorkloadFailed")
    assert case.decision.exit_message is not None
    assert "exit code 3" in case.decision.exit_message
    assert not case.decision.remove


def test_a_job_is_not_over_while_a_pod_still_runs(make: Any) -> None:
    pods = (make.pod(uid="a", phase="Failed", exit_code=3), make.pod(uid="b", deleting=True))
    job = make.member_job(("Failed", "BackoffLimitExceeded"))
    assert Case(make, make.lease(verdicts=RUNNING, replicas=2), job=job, pods=pods).state == "Running"


def test_stop_removes_first_and_ends_only_when_all_is_gone(make: Any) -> None:
    lease = make.lease(desired="Stop", verdicts=RUNNING, workload_uid="job-uid")
    first = Case(make, lease, job=make.member_job(), pods=(make.pod(),))
    assert first.decision.remove
    assert first.state == "Stopping"
    lease = make.lease(desired="Stop", verdicts=STOPPING, workload_uid="job-uid")
    assert Case(make, lease, pods=(make.pod(deleting=True),)).state == "Stopping"
    assert Case(make, lease, job=make.member_job()).state == "Stopping"
    last = Case(make, lease, gone=(make.pod(phase="Failed", exit_code=143, deleting=True),))
    assert last.state == "Stopped"
    assert not last.decision.remove


def test_a_stop_that_came_too_late_is_a_success(make: Any) -> None:
    done = make.pod(phase="Succeeded", exit_code=0)
    by_itself = make.lease(desired="Stop", verdicts=RUNNING, workload_uid="job-uid")
    assert Case(make, by_itself, job=make.member_job(("Complete", "")), pods=(done,)).state == "Succeeded"
    raced = make.lease(desired="Stop", verdicts=STOPPING, workload_uid="job-uid")
    assert Case(make, raced, gone=(done,)).state == "Succeeded"


def test_the_run_limit_is_recorded_before_the_removal_and_survives_a_new_agent(make: Any) -> None:
    over = make.pod(ago=60)
    lease = make.lease(verdicts=RUNNING, since=59, workload_uid="job-uid")
    first = Case(make, lease, job=make.member_job(), pods=(over,))
    assert first.decision.remove
    assert (first.state, first.reason("Failed")) == ("Stopping", "RunLimitExceeded")
    again = make.lease(verdicts=LIMIT, workload_uid="job-uid")
    assert Case(make, again, job=make.member_job(), pods=(over,)).reason("Failed") == "RunLimitExceeded"
    ended = Case(make, again, gone=(make.pod(phase="Failed", exit_code=143, ago=60),))
    assert (ended.state, ended.reason("Failed")) == ("Failed", "RunLimitExceeded")


@pytest.mark.parametrize(("ago", "since", "over"), [(59, 59, False), (60, 59, True), (-500, 60, True), (5, 5, False)])
def test_neither_clock_can_stretch_a_run(make: Any, ago: float, since: float, over: bool) -> None:
    lease = make.lease(verdicts=RUNNING, since=since, workload_uid="job-uid")
    case = Case(make, lease, job=make.member_job(), pods=(make.pod(ago=ago),))
    assert case.decision.remove == over


@pytest.mark.parametrize(("ago", "reason"), [(5, "WorkloadEvicted"), (60, "RunLimitExceeded")])
def test_a_member_that_speaks_of_a_deadline_is_believed_at_the_run_limit_only(make: Any, ago: int, reason: str) -> None:
    """Otherwise its owner ends a job for good by lowering a number; the limit here is 60 s."""
    ended = make.member_job(("Failed", "DeadlineExceeded"))
    pod = make.pod(ago=ago, phase="Failed", exit_code=137)
    case = Case(make, make.lease(verdicts=RUNNING, since=ago, workload_uid="job-uid"), job=ended, pods=(pod,))
    assert case.reason("Failed") == reason


def test_a_lease_without_a_workload_adopts_and_starts_nothing(make: Any) -> None:
    lease = make.lease()
    again = lease.model_copy(update={"spec": lease.spec.model_copy(update={"workload": None})})
    gone = Case(make, again)
    assert not gone.decision.create
    assert (gone.state, gone.reason("Failed")) == ("Failed", "WorkloadLost")
    found = Case(make, again, job=make.member_job(), pods=(make.pod(),))
    assert (found.state, found.decision.remove) == ("Running", False)


def test_a_job_that_was_ever_seen_is_not_created_again(make: Any) -> None:
    case = Case(make, make.lease(), ever=True)
    assert (case.decision.create, case.reason("Failed")) == (False, "WorkloadVanished")


def test_it_looks_again_when_the_limit_is_due(make: Any) -> None:
    lease = make.lease(verdicts=RUNNING, since=50, workload_uid="job-uid")
    case = Case(make, lease, job=make.member_job(), pods=(make.pod(ago=50),))
    assert case.decision.due == 10


def test_no_pods_and_no_node_reject_only_after_a_while(make: Any) -> None:
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"}
    stuck = make.pod(phase="Pending", ago=None, conditions=(unschedulable,))
    for pods, why in (((), "NoPods"), ((stuck,), "Unschedulable")):
        early = Case(make, make.lease(verdicts=ACCEPTED, since=29), job=make.member_job(), pods=pods)
        assert (early.state, early.decision.remove, early.decision.due) == ("Pending", False, 1)
        late = Case(make, make.lease(verdicts=ACCEPTED, since=30), job=make.member_job(), pods=pods, events="quota")
        assert late.decision.remove
        assert (late.reason("Failed"), late.reason("Accepted")) == ("MemberRejected", why)


def test_part_of_a_gang_is_a_rejection(make: Any) -> None:
    lease = make.lease(replicas=2, verdicts=RUNNING, since=30)
    case = Case(make, lease, job=make.member_job(), pods=(make.pod(),))
    assert case.reason("Failed") == "MemberRejected"


def test_a_pod_that_was_seen_and_went_is_no_missing_one(make: Any) -> None:
    now = make.now
    reading = measure([pod_facts(make.pod(uid="a")), pod_facts(make.pod(uid="b"))], now - timedelta(seconds=1), None)
    lease = make.lease(replicas=2, verdicts=RUNNING, since=40)
    case = Case(make, lease, job=make.member_job(), pods=(make.pod(uid="a"),), reading=reading)
    assert case.state == "Running"


def test_an_image_that_cannot_be_pulled_fails_later(make: Any) -> None:
    pulling = make.pod(phase="Pending", waiting={"reason": "ErrImagePull", "message": "denied"})
    early = Case(make, make.lease(verdicts=ACCEPTED, since=119), job=make.member_job(), pods=(pulling,))
    assert early.state == "Pending"
    late = Case(make, make.lease(verdicts=ACCEPTED, since=120), job=make.member_job(), pods=(pulling,))
    assert (late.state, late.reason("Failed"), late.reason("Accepted")) == ("Stopping", "ImagePullFailed", "Accepted")


def test_a_pod_that_never_starts_does_not_hold_its_gpus_for_ever(make: Any) -> None:
    """It is not billed before a container runs, so a registry that sends a byte a minute would be a free lease."""
    slow = make.pod(phase="Pending", waiting={"reason": "ContainerCreating"})
    early = Case(make, make.lease(verdicts=ACCEPTED, since=1799), job=make.member_job(), pods=(slow,))
    assert (early.state, early.decision.remove) == ("Pending", False)
    late = Case(make, make.lease(verdicts=ACCEPTED, since=1800), job=make.member_job(), pods=(slow,))
    assert (late.state, late.reason("Failed"), late.reason("Accepted")) == ("Stopping", "StartTimeout", "Accepted")
    assert late.decision.remove
    said = late.decision.verdicts["Failed"].message
    assert "main: ContainerCreating" in said
    assert "within 1800 s: use a smaller image" in said


def test_one_idle_pod_of_a_gang_is_enough_and_a_running_one_is_left(make: Any) -> None:
    idle = make.pod(uid="b", index=1, phase="Pending", waiting={"reason": "ContainerCreating"})
    verdicts = {"Accepted": ACCEPTED["Accepted"], "Running": ConditionState("False", "Waiting")}
    runs = make.pod(uid="a", ago=30)
    lease = make.lease(replicas=2, verdicts=verdicts, since=1800)
    gang = Case(make, lease, job=make.member_job(), pods=(runs, idle))
    assert gang.reason("Failed") == "StartTimeout"
    whole = Case(make, lease, job=make.member_job(), pods=(runs, make.pod(uid="b", index=1, ago=30)))
    assert (whole.state, whole.decision.remove) == ("Running", False)


def test_an_ended_lease_keeps_its_finished_job_until_stop_and_never_a_live_one(make: Any) -> None:
    ended = {"Complete": ConditionState("True", "Succeeded")}
    finished = make.member_job(("Complete", ""))
    assert not Case(make, make.lease(verdicts=ended), job=finished).decision.remove
    assert Case(make, make.lease(verdicts=ended, desired="Stop"), job=finished).decision.remove
    assert Case(make, make.lease(verdicts=ended), job=make.member_job()).decision.remove
    assert not Case(make, make.lease(verdicts=ended, desired="Stop")).decision.remove


def test_transition_times_move_only_with_the_status(make: Any) -> None:
    before = update([], RUNNING, now=make.now - timedelta(seconds=9), generation=1)
    after = update(before, {"Running": ConditionState("True", "Stopping")}, now=make.now, generation=2)
    (running,) = [c for c in after if c.type == "Running"]
    assert (running.last_transition_time, running.observed_generation) == (make.now - timedelta(seconds=9), 2)
    ended = update(after, {"Running": ConditionState("False", "Ended")}, now=make.now, generation=2)
    assert next(c for c in ended if c.type == "Running").last_transition_time == make.now
