"""The conditions of a lease: their reasons, how they change, and the one function that makes a state of them; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from fedgpu_operator.api.base import Condition

LeaseState = Literal["Pending", "Running", "Stopping", "Succeeded", "Failed", "Stopped"]

DISPATCHING: Final = "Dispatching"
ACCEPTED: Final = "Accepted"
WAITING: Final = "Waiting"
RUNNING: Final = "Running"
STOPPING: Final = "Stopping"
STOPPED: Final = "Stopped"
ENDED: Final = "Ended"
SUCCEEDED: Final = "Succeeded"

MEMBER_REJECTED: Final = "MemberRejected"
WORKLOAD_VANISHED: Final = "WorkloadVanished"
RUN_LIMIT_EXCEEDED: Final = "RunLimitExceeded"
IMAGE_PULL_FAILED: Final = "ImagePullFailed"
START_TIMEOUT: Final = "StartTimeout"
LEASE_FENCED: Final = "LeaseFenced"

MAX_MESSAGE: Final = 1024


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one condition should say."""

    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""


Verdicts = Mapping[str, Verdict]
"""By condition type; types that are not named stay as they are."""


def find(conditions: Sequence[Condition], kind: str) -> Condition | None:
    """The condition of that type."""
    return next((condition for condition in conditions if condition.type == kind), None)


def update(conditions: Sequence[Condition], verdicts: Verdicts, *, now: datetime, generation: int) -> list[Condition]:
    """The conditions with these verdicts; the transition time moves only with the status."""
    kept = [condition for condition in conditions if condition.type not in verdicts]
    for kind, verdict in verdicts.items():
        before = find(conditions, kind)
        same = before is not None and before.status == verdict.status
        kept.append(
            Condition(
                type=kind,
                status=verdict.status,
                reason=verdict.reason,
                message=verdict.message[:MAX_MESSAGE],
                last_transition_time=before.last_transition_time if before is not None and same else now,
                observed_generation=generation,
            )
        )
    return sorted(kept, key=lambda condition: condition.type)


def state_of(conditions: Sequence[Condition]) -> LeaseState:
    """The one word for people."""
    status = {condition.type: condition.status for condition in conditions}
    reason = {condition.type: condition.reason for condition in conditions}
    if status.get("Complete") == "True":
        return "Succeeded"
    if status.get("Failed") == "True":
        return "Failed"
    if reason.get("Running") == STOPPED:
        return "Stopped"
    if reason.get("Running") == STOPPING:
        return "Stopping"
    return "Running" if status.get("Running") == "True" else "Pending"
