"""The conditions of a lease: their reasons, how they change, and the one function that makes a state of them; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from fedgpu_operator.api.base import Condition
from fedgpu_operator.api.conditions import Finding, merge

LeaseState = Literal["Pending", "Running", "Suspended", "Stopping", "Succeeded", "Failed", "Stopped"]

DISPATCHING: Final = "Dispatching"
ACCEPTED: Final = "Accepted"
WAITING: Final = "Waiting"
RUNNING: Final = "Running"
STOPPING: Final = "Stopping"
STOPPED: Final = "Stopped"
ENDED: Final = "Ended"
RESUMED: Final = "Resumed"

MAX_MESSAGE: Final = 1024


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one condition should say."""

    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""


Verdicts = Mapping[str, Verdict]
"""By condition type; types that are not named stay as they are."""


def update(conditions: Sequence[Condition], verdicts: Verdicts, *, now: datetime, generation: int) -> list[Condition]:
    """The conditions with these verdicts, by type; the transition time moves only with the status."""
    findings = [Finding(kind, each.status, each.reason, each.message[:MAX_MESSAGE]) for kind, each in verdicts.items()]
    return sorted(merge(conditions, findings, generation=generation, now=now), key=lambda condition: condition.type)


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
    if status.get("Suspended") == "True":
        return "Suspended"
    return "Running" if status.get("Running") == "True" else "Pending"
