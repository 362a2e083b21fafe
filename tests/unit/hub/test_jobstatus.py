"""A job's status: one pure function of the facts, small, and its conditions move only when they must."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any, get_args

import pytest
from tests.unit.hub.world import condition

from fedgpu_operator.api.base import Condition, find
from fedgpu_operator.api.computejob import ComputeJob, ComputeJobStatus, JobState, job_state
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.domain.attempts import Attempt, AttemptRequest, AttemptUsage
from fedgpu_operator.domain.decision import Decision, Reason, Verdict
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Coverage, EpochStage
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.hub.views.jobfacts import JobFacts, job_events
from fedgpu_operator.hub.views.jobs import is_settled, job_status

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
UID = "0" * 36
LIMIT = 32 * 1024


def job(status: ComputeJobStatus | None = None, *, deleted: bool = False, **spec: Any) -> ComputeJob:
    meta: dict[str, Any] = {"name": "train", "namespace": "team-a", "uid": UID, "generation": 3}
    if deleted:
        meta["deletionTimestamp"] = "2026-01-01T11:00:00Z"
    body = {
        "runLimitSeconds": 3600,
        "template": {"spec": {"containers": [{"name": "main", "image": "example.com/work:1"}]}},
        **spec,
    }
    parsed = ComputeJob.parse({"metadata": meta, "spec": body})
    return parsed if status is None else parsed.model_copy(update={"status": status})


def usage(outcome: str = "", gpu_seconds: int = 0, attempt: int = 1) -> AttemptUsage:
    terms = AttemptRequest(UID, "r", "team-a", "train", "berlin", "H100", MicroUSD(1_250_000), 1, 3600)
    return AttemptUsage(Attempt(terms, attempt, NOW, NOW if outcome else None, outcome), gpu_seconds, 1)


def lease(state: str, running: str = "", why: str = "Running", **agreed: Any) -> ComputeLease:
    spec = {
        "job": {"namespace": "team-a", "name": "train", "uid": UID},
        "attempt": 1,
        "fencingEpoch": 1,
        "provider": "berlin",
        "product": "H100",
        "replicas": 1,
        "gpusPerReplica": 1,
        "pricePerGPUHour": "1",
        "runLimitSeconds": 9,
        "memberNamespace": "n",
        "workload": {},
        **agreed,
    }
    conditions = [condition("Running", running, why, NOW)] if running else []
    stamps = {"startedAt": "2026-01-01T11:50:00Z", "finishedAt": "2026-01-01T11:55:00Z"}
    status = {"state": state, "conditions": conditions, "usage": stamps, "exitMessage": "exit code 3"}
    return ComputeLease.parse({"metadata": {"name": f"{UID}-1"}, "spec": spec, "status": status})


def verdict(provider: str, price: int = 1_250_000, reason: Reason | None = None, message: str = "") -> Verdict:
    return Verdict(provider, "H100", reason, message, MicroUSD(price), MicroUSD(price), MicroUSD(price), {})


def decision(*verdicts: Verdict, chosen: Verdict | None = None, reason: Reason | None = None) -> Decision:
    return Decision(UID, chosen, verdicts, reason, "0/1 providers fit: 1 reason", ("law@1",))


CHOSEN = decision(verdict("berlin"), chosen=verdict("berlin"))
FULL = decision(verdict("berlin", reason=Reason.INSUFFICIENT_GPUS), reason=Reason.INSUFFICIENT_GPUS)
BROKE = decision(verdict("berlin", reason=Reason.UNFUNDED), reason=Reason.UNFUNDED)
PAID = Coverage(f"{UID}-1", 60, 60, 4, EpochStage.PAID)


def says(status: ComputeJobStatus) -> dict[str, str]:
    return {c.type: f"{c.status} {c.reason}" for c in status.conditions}


@pytest.mark.parametrize(
    ("facts", "state", "wanted"),
    [
        (JobFacts(job()), "Pending", {"Admitted": "True Admitted", "Placed": "False Queued"}),
        (JobFacts(job(), decision=FULL), "Pending", {"Placed": "False InsufficientGPUs", "Running": "False NotPlaced"}),
        (JobFacts(job(), decision=BROKE), "Pending", {"Admitted": "False Unfunded", "Placed": "False Unfunded"}),
        (JobFacts(job(dryRun=True), decision=CHOSEN), "DryRun", {"Placed": "False DryRun"}),
        (JobFacts(job(dryRun=True), decision=FULL), "DryRun", {"Placed": "False InsufficientGPUs"}),
        (JobFacts(job(suspend=True)), "Suspended", {"Placed": "False Suspended", "Running": "False Suspended"}),
        (
            JobFacts(job(deadline="2020-01-01T00:00:00Z")),
            "Failed",
            {"Failed": "True DeadlineExceeded", "Placed": "False DeadlineExceeded"},
        ),
        (
            JobFacts(job(), invalid=InvalidResourceError("UnknownPlace", "spec.latency.from: no")),
            "Failed",
            {"Admitted": "False UnknownPlace", "Failed": "True UnknownPlace"},
        ),
        (
            JobFacts(job(), (usage(),), decision=CHOSEN),
            "Placed",
            {"Placed": "True Placed", "Running": "False Dispatching", "Settled": "False NotFinished"},
        ),
        (JobFacts(job(), (usage(),), lease("Pending")), "Placed", {"Running": "False Dispatching"}),
        (JobFacts(job(), (usage(),), lease("Running", "True")), "Running", {"Running": "True Running"}),
        (JobFacts(job(), (usage(),), lease("Running", "Unknown")), "Running", {"Running": "Unknown Running"}),
        (JobFacts(job(), (usage(),), lease("Stopping", "True")), "Running", {"Running": "True Running"}),
        (
            JobFacts(job(), (usage("Succeeded", 60),), lease("Succeeded"), coverage=(PAID,)),
            "Succeeded",
            {"Complete": "True Succeeded", "Running": "False Ended", "Settled": "True Paid"},
        ),
        (
            JobFacts(job(), (usage("ExitCode", 60),), lease("Failed")),
            "Failed",
            {"Failed": "True ExitCode", "Settled": "False AwaitingEpoch"},
        ),
        (
            JobFacts(job(), (usage("SuspendedByMember", 5),)),
            "Pending",
            {"Placed": "False Queued", "Running": "False SuspendedByMember"},
        ),
        (JobFacts(job(), (usage("NodeLost", 5),)), "Pending", {"Placed": "False Queued", "Running": "False NodeLost"}),
        (JobFacts(job(deleted=True), decision=FULL), "Pending", {"Running": "False Deleting"}),
    ],
)
def test_each_phase_has_its_state_and_its_words(facts: JobFacts, state: str, wanted: dict[str, str]) -> None:
    status = job_status(facts, NOW, {})
    assert status.state == state
    assert status.observed_generation == 3
    said = says(status)
    assert wanted.items() <= said.items(), said
    assert all(c.observed_generation == 3 for c in status.conditions)


def test_a_job_runs_while_its_deletion_waits_for_the_end_of_its_workload() -> None:
    runs = job_status(JobFacts(job(), (usage(),), lease("Running", "True")), NOW, {})
    status = job_status(JobFacts(job(runs, deleted=True), (usage(),), lease("Running", "True")), NOW, {})
    assert (status.state, status.reason) == ("Running", "Deleting")


def stopping(reason: str, state: str = "Running", why: str = "Running", **agreed: Any) -> ComputeLease:
    status = "False" if state in ("Pending", "Stopped") else "True"
    asked = {"desired": "Stop", "stopReason": reason, "stopRequestedAt": "2026-01-01T12:00:00Z", **agreed}
    return lease(state, status, why, **asked)


@pytest.mark.parametrize(
    ("reason", "why"),
    [
        ("Suspended", "spec.suspend is set"),
        ("DeadlineExceeded", "spec.deadline has passed"),
        ("Unfunded", "the account's money for it has ended"),
        ("Preempted", "work of higher priority needs its GPUs"),
        ("Rebalanced", "a better place was found"),
    ],
)
def test_a_job_that_is_stopped_says_why_and_until_when_its_grace_runs(reason: str, why: str) -> None:
    for told in (stopping(reason), stopping(reason, "Stopping", "Stopping")):
        status = job_status(JobFacts(job(), (usage(),), told), NOW, {})
        text = f"the workload is being stopped: {why}; its grace period of 30 s runs until 2026-01-01T12:00:30Z"
        running = find(status.conditions, "Running")
        assert running is not None
        assert (running.status, running.reason, running.message) == ("True", "Stopping", text)
        assert (status.state, status.reason) == ("Running", "Stopping")
        assert says(status).items() >= {"Ready": "False Stopping", "Reconciling": "True Stopping"}.items()


def test_a_stop_of_what_has_not_started_is_no_start_of_it() -> None:
    for told in (lease("Pending", desired="Stop", stopReason="Suspended"), stopping("Suspended", "Pending", "Waiting")):
        assert says(job_status(JobFacts(job(), (usage(),), told), NOW, {}))["Running"] == "False Stopping"


def test_a_job_reconciles_until_the_last_usage_of_its_stopped_workload_is_billed() -> None:
    status = job_status(JobFacts(job(), (usage(),), stopping("Suspended", "Stopped", "Stopped")), NOW, {})
    running = find(status.conditions, "Running")
    assert running is not None
    assert running.message == "the workload was stopped: spec.suspend is set; its last usage is being billed"
    assert says(status).items() >= {"Running": "False Stopped", "Reconciling": "True Stopped"}.items()


def test_a_workload_that_ended_by_itself_before_its_stop_is_not_called_stopped() -> None:
    told = lease("Succeeded", "False", "Ended", desired="Stop", stopReason="Suspended")
    complete = Condition.model_validate(condition("Complete", "True", "Succeeded", NOW))
    told.status.conditions.append(complete)
    assert says(job_status(JobFacts(job(), (usage(),), told), NOW, {}))["Running"] == "False Ended"


def test_a_job_that_its_agent_stops_is_not_ready_either() -> None:
    status = job_status(JobFacts(job(), (usage(),), lease("Stopping", "True", "Stopping")), NOW, {})
    assert says(status).items() >= {"Ready": "False Stopping", "Reconciling": "True Stopping"}.items()


@pytest.mark.parametrize("outcome", ["Preempted", "Rebalanced"])
def test_a_job_that_was_moved_says_that_it_is_placed_again(outcome: str) -> None:
    move = {
        "reason": outcome,
        "stopAt": "2026-01-01T12:00:00Z",
        "heldUntil": "2026-01-01T12:02:00Z",
        "priority": 0,
        "why": "provider berlin is draining",
    }
    told = stopping(outcome, "Stopped", "Stopped", move=move)
    status = job_status(JobFacts(job(), (usage(outcome, 5),), told), NOW, {})
    text = "stopped at berlin to be placed again: provider berlin is draining; waiting for the next placement pass"
    messages = {each.type: (each.reason, each.message) for each in status.conditions}
    assert messages["Running"] == (outcome, text)
    assert messages["Placed"] == messages["Reconciling"] == ("Queued", text)
    # Once its lease is gone, what was told is kept; a decision has its own words.
    later = job_status(JobFacts(job(status), (usage(outcome, 5),), decision=FULL), NOW, {})
    messages = {each.type: (each.reason, each.message) for each in later.conditions}
    assert messages["Running"] == (outcome, text)
    assert messages["Placed"] == ("InsufficientGPUs", FULL.message)


SAID: dict[str, tuple[str, ...]] = {
    "Placed": ("", "True Placed", "False Queued", "False Suspended"),
    "Running": (
        *("", "True Running", "Unknown Running", "True Stopping", "False Stopping", "False Deleting", "False Ended"),
        *("False NotPlaced", "False Dispatching", "False Suspended", "False SuspendedByMember", "False Unfunded"),
    ),
    "Ready": ("", "True DryRun", "False Queued"),
    "Complete": ("", "True Succeeded"),
    "Failed": ("", "True ExitCode", "False ExitCode"),
}


def test_a_job_waits_exactly_while_its_state_is_pending() -> None:
    states = set()
    for said in product(*SAID.values()):
        words = [(kind, *each.split()) for kind, each in zip(SAID, said, strict=True) if each]
        found = [condition(kind, status, reason, NOW) for kind, status, reason in words]
        judged = ComputeJobStatus.model_validate({"conditions": found})
        state = job_state(judged.conditions)
        assert judged.waits == (state == "Pending"), said
        states.add(state)
    assert states == set(get_args(JobState))


@pytest.mark.parametrize(
    ("covers", "reason"),
    [
        ((), "AwaitingEpoch"),
        ((Coverage("a", 60, 59, 1, EpochStage.PAID),), "AwaitingEpoch"),
        ((Coverage("a", 60, 60, 1, EpochStage.PREPARED),), "AwaitingFinality"),
        ((Coverage("a", 60, 60, 1, EpochStage.POSTED),), "AwaitingFinality"),
        ((Coverage("a", 60, 60, 1, EpochStage.FINALIZED),), "AwaitingPayment"),
        ((PAID, Coverage("b", 5, 5, 5, EpochStage.FINALIZED)), "AwaitingPayment"),
        ((PAID, Coverage("b", 0, 0, None, None)), "Paid"),
        ((PAID,), "Paid"),
    ],
)
def test_settled_says_how_far_the_money_is_and_true_only_when_all_is_paid(
    covers: tuple[Coverage, ...], reason: str
) -> None:
    facts = JobFacts(job(), (usage("Succeeded", 60),), lease("Succeeded"), coverage=covers)
    status = job_status(facts, NOW, {4: ("0xpost", "0xclaim"), 5: ("0xpost5", "")})
    settled = find(status.conditions, "Settled")
    assert settled is not None
    assert settled.reason == reason
    assert is_settled(status) == (reason == "Paid")
    numbers = [cover.epoch for cover in covers if cover.epoch]
    assert (status.settlement.epoch if status.settlement else None) == max(numbers, default=None)


def test_nothing_used_is_nothing_to_pay() -> None:
    status = job_status(JobFacts(job(), (usage("ExitCode"),), lease("Failed")), NOW, {})
    assert says(status)["Settled"] == "True NothingToPay"


def test_all_attempts_are_in_the_bill() -> None:
    facts = JobFacts(job(), (usage("Suspended", 7), usage("Succeeded", 5, 2)), lease("Succeeded"))
    status = job_status(facts, NOW, {})
    assert status.usage is not None
    # 1.25 USD/h: floor(1250000*7/3600) + floor(1250000*5/3600)
    assert (status.usage.gpu_seconds, status.usage.cost) == (12, "0.004166")


def test_a_transition_time_moves_with_the_status_and_not_with_the_words() -> None:
    first = job_status(JobFacts(job(), decision=FULL), NOW, {})
    later = NOW + timedelta(minutes=5)
    again = job_status(JobFacts(job(first), decision=BROKE), later, {})
    assert says(again)["Placed"] == "False Unfunded"
    times = {c.type: c.last_transition_time for c in again.conditions}
    assert times["Placed"] == NOW
    assert times["Admitted"] == later, "it was True before"
    placed = job_status(JobFacts(job(again), (usage(),), decision=CHOSEN), later + timedelta(minutes=1), {})
    assert {c.type: c.last_transition_time for c in placed.conditions}["Placed"] == later + timedelta(minutes=1)


def test_the_same_facts_give_the_same_status_at_any_time() -> None:
    facts = JobFacts(job(), (usage("Succeeded", 60),), lease("Succeeded"), coverage=(PAID,), decision=CHOSEN)
    first = job_status(facts, NOW, {})
    assert job_status(replace(facts, job=job(first)), NOW + timedelta(days=1), {}) == first


def test_a_placement_keeps_the_words_of_its_own_decision_until_the_next_attempt() -> None:
    first = job_status(JobFacts(job(), (usage(),), decision=CHOSEN), NOW, {})
    kept = job_status(JobFacts(job(first), (usage(),), lease("Running", "True")), NOW, {})
    assert kept.placement == first.placement
    assert kept.candidates == first.candidates
    assert find(kept.conditions, "Placed") == find(first.conditions, "Placed")
    second = job_status(JobFacts(job(kept), (usage("Suspended"), usage(attempt=2)), decision=CHOSEN), NOW, {})
    assert second.placement is not None
    assert second.placement.attempt == 2


def test_a_job_that_runs_again_is_no_longer_failed() -> None:
    failed = job_status(JobFacts(job(), invalid=InvalidResourceError("InvalidPolicy", "x")), NOW, {})
    again = job_status(JobFacts(job(failed), (usage(),), decision=CHOSEN), NOW, {})
    assert "Failed" not in says(again)


def test_of_many_offers_the_ten_best_judged_are_kept() -> None:
    verdicts = [verdict(f"p{i:02}", 1_000_000 + i) for i in range(40)]
    status = job_status(JobFacts(job(), decision=decision(*verdicts, chosen=verdicts[0])), NOW, {})
    assert [c.provider for c in status.candidates] == [f"p{i:02}" for i in range(10)]


@pytest.mark.parametrize("placed", [True, False])
def test_even_the_largest_decision_stays_below_32_kib(placed: bool) -> None:
    """Everything as long as the schemas allow; only a member's own words can hold letters of several bytes."""
    words = "x" * 5000
    best = replace(verdict("p" * 40, 10**30, message=words), components={f"{i:032}": 10**30 for i in range(16)})
    verdicts = [replace(best, product=f"{i:063}", reason=Reason.POLICY_DENIED) for i in range(50)]
    law = tuple(f"{'l' * 253}@{i}" for i in range(500))
    big = Decision(UID, best if placed else None, tuple(verdicts), Reason.POLICY_DENIED, words, law)
    loud = lease("Failed")
    loud = loud.model_copy(update={"status": loud.status.model_copy(update={"exit_message": "€" * 1024})})
    ended = (usage("ExitCode", 10**9),)
    first = job_status(JobFacts(job(), (usage(),), lease("Running", "True"), big), NOW, {})
    failed = job_status(JobFacts(job(first), ended, loud), NOW, {})
    broken = InvalidResourceError("InvalidPolicy", words)
    invalid = job_status(JobFacts(job(first), (usage("Suspended"),), lease("Stopped"), invalid=broken), NOW, {})
    for status in (first, failed, invalid):
        assert len(json.dumps(status.to_wire(), ensure_ascii=False, separators=(",", ":")).encode()) <= LIMIT
    if placed:
        assert first.placement is not None
        assert len(first.placement.policies) == 64, "what it was decided by stays; candidates are advice"


def test_of_a_status_that_is_too_large_the_worst_judged_candidates_go() -> None:
    parts = {f"{i:032}": 10**15 for i in range(16)}
    verdicts = [replace(verdict(f"p{i:02}", 1_000_000 + i, message="€" * 256), components=parts) for i in range(10)]
    law = tuple(f"{'l' * 240}@{i}" for i in range(60))
    full = Decision(UID, verdicts[0], tuple(verdicts), None, "", law)
    status = job_status(JobFacts(job(), (usage(),), decision=full), NOW, {})
    kept = [each.provider for each in status.candidates]
    assert 0 < len(kept) < 10
    assert kept == [f"p{i:02}" for i in range(len(kept))]


def test_events_tell_what_is_new_to_a_person_and_nothing_twice() -> None:
    steps = [
        (JobFacts(job()), []),
        (JobFacts(job(), decision=FULL), [("Warning", "InsufficientGPUs")]),
        (JobFacts(job(), decision=FULL), []),
        (JobFacts(job(), (usage(),), decision=CHOSEN), [("Normal", "Placed")]),
        (JobFacts(job(), (usage(),), lease("Running", "True")), [("Normal", "Running")]),
        (JobFacts(job(), (usage(),), lease("Stopping", "True", "Stopping")), []),
        (JobFacts(job(suspend=True), (usage("Suspended", 5),)), [("Normal", "Suspended")]),
        (JobFacts(job(), (usage("Suspended", 5), usage(attempt=2)), decision=CHOSEN), [("Normal", "Placed")]),
        (
            JobFacts(job(), (usage("Suspended", 5), usage("Succeeded", attempt=2)), lease("Succeeded")),
            [("Normal", "Complete")],
        ),
    ]
    known = ComputeJobStatus(conditions=[])
    for facts, wanted in steps:
        status = job_status(replace(facts, job=facts.job.model_copy(update={"status": known})), NOW, {})
        assert [(event.type, event.reason) for event in job_events(known, status)] == wanted
        known = status


def test_a_failure_is_a_warning_with_the_members_words() -> None:
    status = job_status(JobFacts(job(), (usage("ExitCode", 3),), lease("Failed")), NOW, {})
    failed = [event for event in job_events(ComputeJobStatus(conditions=[]), status) if event.reason == "ExitCode"]
    assert [(event.type, event.message) for event in failed] == [("Warning", "exit code 3")]
