"""When a reading is worth a write to the hub: old leases write seldom, what is news is written at once; pure."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from fedgpu_operator.domain.usage import LONGEST_UNWRITTEN_SECONDS, UsageReading

SHARE: Final = 0.02
"""Of a lease's age: so much of its usage may be in no reading on the hub, whatever its size and its price."""


def interval(age: timedelta, shortest: timedelta) -> timedelta:
    """The time between two readings of a lease that only count on.

    A fiftieth of the lease's age, at least `shortest`, and at most LONGEST_UNWRITTEN_SECONDS unless `shortest` is more.
    """
    return max(shortest, min(timedelta(seconds=LONGEST_UNWRITTEN_SECONDS), SHARE * age))


def worth_writing(before: UsageReading | None, after: UsageReading, *, age: timedelta, shortest: timedelta) -> bool:
    """Whether `after` is to be written over `before`, the reading on the hub (None if it shows none).

    A first reading, and one in which a pod came, started or ended, is written at once; one that only counts on
    when `interval` has passed. `age` is that of the lease.
    """
    if before is None:
        return True
    if before.sequence == after.sequence:
        return False
    waited = after.observed_at - before.observed_at
    return waited >= interval(age, shortest) or _milestones(before) != _milestones(after)


def _milestones(reading: UsageReading) -> tuple[object, ...]:
    """All of a reading that does not grow by itself."""
    pods = {(pod.uid, pod.gpus, pod.started_at, pod.finished_at) for pod in reading.pods}
    return reading.started_at, reading.finished_at, reading.folded_gpu_seconds, frozenset(pods)
