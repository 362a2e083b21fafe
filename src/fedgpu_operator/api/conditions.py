"""How conditions are kept: one entry per type, the transition time moving only when the status does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from fedgpu_operator.api.base import MAX_MESSAGE, Condition

Status = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a loop found out about one condition type, before it is merged into what is known."""

    type: str
    status: Status
    reason: str
    message: str = ""


def merge(
    known: Sequence[Condition], findings: Iterable[Finding], *, generation: int, now: datetime
) -> list[Condition]:
    """The known conditions with the findings put in; order of first appearance, messages cut to fit."""
    merged = {condition.type: condition for condition in known}
    for finding in findings:
        before = merged.get(finding.type)
        moved = before is None or before.status != finding.status
        merged[finding.type] = Condition(
            type=finding.type,
            status=finding.status,
            reason=finding.reason,
            message=finding.message[:MAX_MESSAGE],
            last_transition_time=now.replace(microsecond=0) if moved or before is None else before.last_transition_time,
            observed_generation=generation,
        )
    return list(merged.values())


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of that type."""
    return next((condition for condition in conditions if condition.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: str) -> bool:
    """Whether the condition of that type is there and True."""
    condition = find(conditions, kind)
    return condition is not None and condition.status == "True"


def is_false(conditions: Iterable[Condition], kind: str) -> bool:
    """Whether the condition of that type is there and False."""
    condition = find(conditions, kind)
    return condition is not None and condition.status == "False"
