"""Which Events a change of a job's status is worth; pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from fedgpu_operator.api.base import Condition
from fedgpu_operator.api.computejobstatus import ComputeJobStatus
from fedgpu_operator.api.conditions import find
from fedgpu_operator.domain.faults import SUSPENDED_BY_MEMBER
from fedgpu_operator.hub.jobfacts import JobFacts
from fedgpu_operator.hub.jobstatus import attempt_failed, failed, retries_used

QUIET: Final = frozenset({"Queued", "NotPlaced"})
"""Reasons that say only that nothing has been decided yet."""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One Event about a job."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def failed_attempt(facts: JobFacts) -> JobEvent | None:
    """The Event for an attempt that has just failed and is followed by another one, maybe in the same pass."""
    step, newest = facts.next_step, facts.newest
    if step is None or newest is None or not step.again or not failed(newest.outcome):
        return None
    return JobEvent("Warning", newest.outcome, f"{attempt_failed(facts)}; {retries_used(step)}")


def job_events(before: ComputeJobStatus, after: ComputeJobStatus) -> Iterator[JobEvent]:
    """An Event for each condition that newly says something a person would want to be told."""
    for condition in after.conditions:
        known = find(before.conditions, condition.type)
        if known is None or (known.status, known.reason) != (condition.status, condition.reason):
            event = _event(condition)
            # A workload that is being stopped still runs: only that it began is news.
            old_news = condition.type == "Running" and known is not None and known.status == condition.status
            if event is not None and not old_news:
                yield event


def _event(condition: Condition) -> JobEvent | None:
    message = condition.message or condition.reason
    match condition.type, condition.status:
        case "Placed", "False" if condition.reason in ("DryRun", "Suspended"):
            return JobEvent("Normal", condition.reason, message)
        case "Placed", "False" if condition.reason not in QUIET:
            return JobEvent("Warning", condition.reason, message)
        case ("Failed", "True") | ("Running", "False") if condition.reason == SUSPENDED_BY_MEMBER:
            return JobEvent("Warning", condition.reason, message)
        case "Failed", "True":
            return JobEvent("Warning", condition.reason, message)
        case (("Placed" | "Running" | "Complete" | "Settled"), "True"):
            return JobEvent("Normal", condition.type, message)
        case _:
            return None
