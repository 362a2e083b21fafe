"""Phases, stop reasons and outcomes, one table each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.hub.world import end_conditions

from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.domain.attempts import Attempt, AttemptRequest, AttemptUsage
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.hub.views.jobfacts import MOST_REFUSED, JobFacts, Phase, outcome_of, phase, resumes_at, stop_reason

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
PAST, AHEAD = "2026-01-01T11:59:59Z", "2026-01-01T12:00:01Z"
OPEN = "(open)"


def job(deleted: bool = False, **spec: Any) -> ComputeJob:
    meta = {"name": "train", "namespace": "team-a", "uid": "0" * 36} | ({"deletionTimestamp": PAST} if deleted else {})
    body = {
        "runLimitSeconds": 3600,
        "template": {"spec": {"containers": [{"name": "main", "image": "example.com/work:1"}]}},
        **spec,
    }
    return ComputeJob.parse({"metadata": meta, "spec": body})


def attempts(*outcomes: str) -> tuple[AttemptUsage, ...]:
    """Attempts that ended so, or are open."""
    terms = AttemptRequest("0" * 36, "r", "team-a", "train", "berlin", "H100", MicroUSD(1), 1, 3600)
    return tuple(
        AttemptUsage(
            Attempt(terms, i, NOW) if o == OPEN else Attempt(terms, i, NOW, NOW + timedelta(seconds=1), o), 0, 0
        )
        for i, o in enumerate(outcomes, start=1)
    )


@pytest.mark.parametrize(
    ("wanted", "facts"),
    [
        (Phase.PENDING, JobFacts(job())),
        (Phase.PENDING, JobFacts(job(deadline=AHEAD))),
        (Phase.PENDING, JobFacts(job(), attempts("Suspended"))),
        (Phase.PENDING, JobFacts(job(), attempts("MemberRejected", "MemberRejected"))),
        (Phase.DRY_RUN, JobFacts(job(dryRun=True))),
        (Phase.PENDING, JobFacts(job(), attempts(*["NodeRejected"] * 20))),
        (Phase.FINISHED, JobFacts(job(), attempts(*["NodeRejected"] * 21))),
        (Phase.PENDING, JobFacts(job(), attempts("WorkloadEvicted", "NodeLost", "ImageUnavailable"))),
        (Phase.FINISHED, JobFacts(job(retries={"infrastructure": 2}), attempts(*["ImageUnavailable"] * 3))),
        (Phase.FINISHED, JobFacts(job(), attempts("WorkloadFailed"))),
        (Phase.PENDING, JobFacts(job(retries={"errors": 1}), attempts("WorkloadFailed"))),
        (Phase.FINISHED, JobFacts(job(), attempts("OutOfMemory"))),
        (Phase.PENDING, JobFacts(job(retries={"outOfMemory": 1}), attempts("OutOfMemory"))),
        (Phase.SUSPENDED, JobFacts(job(suspend=True), attempts("WorkloadEvicted"))),
        (Phase.SUSPENDED, JobFacts(job(suspend=True))),
        (Phase.SUSPENDED, JobFacts(job(suspend=True, dryRun=True))),
        (Phase.SUSPENDED, JobFacts(job(suspend=True), attempts("Suspended"))),
        (Phase.EXPIRED, JobFacts(job(deadline=PAST))),
        (Phase.EXPIRED, JobFacts(job(deadline=PAST, suspend=True), attempts("Suspended"))),
        (Phase.INVALID, JobFacts(job(), invalid=InvalidResourceError("UnknownPlace", "x"))),
        (Phase.ACTIVE, JobFacts(job(), attempts(OPEN))),
        (Phase.ACTIVE, JobFacts(job(suspend=True, deadline=PAST), attempts("Suspended", OPEN))),
        (Phase.FINISHED, JobFacts(job(), attempts("Succeeded"))),
        (Phase.FINISHED, JobFacts(job(suspend=True), attempts("Suspended", "ExitCode"))),
        (Phase.FINISHED, JobFacts(job(deadline=PAST), attempts("DeadlineExceeded"))),
        (Phase.FINISHED, JobFacts(job(), attempts("Succeeded"), invalid=InvalidResourceError("X", "x"))),
        (Phase.DELETING, JobFacts(job(deleted=True))),
        (Phase.DELETING, JobFacts(job(deleted=True), attempts(OPEN))),
    ],
)
def test_phase(wanted: Phase, facts: JobFacts) -> None:
    assert phase(facts, NOW) is wanted


def test_attempts_that_never_had_a_lease_come_ever_more_slowly_and_refused_ones_end() -> None:
    def pause(*outcomes: str) -> float | None:
        facts = JobFacts(job(), attempts(*outcomes))
        newest, resumes = facts.newest, resumes_at(facts)
        assert newest is not None
        assert newest.ended_at is not None
        return None if resumes is None else (resumes - newest.ended_at).total_seconds()

    assert [pause(*["Superseded"] * count) for count in (1, 2, 3, 4, 5000)] == [None, 2, 4, 8, 900]
    assert pause("Superseded", "Superseded", "MemberRejected") is None
    assert pause("MemberRejected", "WriteRefused", "Superseded") == 2
    superseded, refused = ["Superseded"] * 5000, ["WriteRefused"] * MOST_REFUSED
    assert phase(JobFacts(job(), attempts(*superseded)), NOW) is Phase.PENDING, "nobody refused anything"
    assert phase(JobFacts(job(), attempts(*refused[1:], "Superseded")), NOW) is Phase.PENDING
    assert phase(JobFacts(job(), attempts(*refused[1:], "Superseded", "WriteRefused")), NOW) is Phase.FINISHED


@given(st.booleans(), st.sampled_from([None, PAST, AHEAD]), st.booleans(), st.sampled_from(["", OPEN, "Succeeded"]))
def test_an_open_attempt_must_stop_whenever_the_job_would_not_be_placed(
    deleted: bool, deadline: str | None, suspend: bool, last: str
) -> None:
    this = job(deleted, suspend=suspend, **({"deadline": deadline} if deadline else {}))
    facts = JobFacts(this, attempts(last) if last else ())
    would_run = phase(JobFacts(this), NOW) is Phase.PENDING
    assert (stop_reason(this, NOW) == "") == would_run
    if last == OPEN and not deleted:
        assert phase(facts, NOW) is Phase.ACTIVE


@pytest.mark.parametrize(
    ("this", "why"),
    [
        (job(), ""),
        (job(suspend=True), "Suspended"),
        (job(deadline=PAST, suspend=True), "DeadlineExceeded"),
        (job(deleted=True, deadline=PAST, suspend=True), "Deleted"),
    ],
)
def test_the_weightiest_reason_to_stop_is_named(this: ComputeJob, why: str) -> None:
    assert stop_reason(this, NOW) == why


def lease(state: str, stop: str = "", failed: str = "") -> ComputeLease:
    spec = {
        "job": {"namespace": "team-a", "name": "train", "uid": "0" * 36},
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
        "stopReason": stop,
    }
    status = {"state": state, "conditions": end_conditions(state, failed or "Failed", NOW)}
    return ComputeLease.parse({"metadata": {"name": "lease"}, "spec": spec, "status": status})


@pytest.mark.parametrize(
    ("ended", "outcome"),
    [
        (lease("Succeeded"), "Succeeded"),
        (lease("Succeeded", stop="Suspended"), "Succeeded"),
        (lease("Stopped", stop="Suspended"), "Suspended"),
        (lease("Stopped"), "Stopped"),
        (lease("Failed", failed="MemberRejected"), "MemberRejected"),
        (lease("Failed", stop="Suspended", failed="ExitCode"), "ExitCode"),
        (lease("Failed"), "Failed"),
        (lease("Failed", failed="Superseded"), "Failed"),
        (lease("Failed", failed="Suspended"), "Failed"),
        (lease("Failed", failed="Succeeded"), "Failed"),
    ],
)
def test_outcome(ended: ComputeLease, outcome: str) -> None:
    assert outcome_of(ended) == outcome
