"""From a lease's pods to its cumulative usage, how far two readings may differ, and when one is worth a write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from fedgpu_operator.domain.usage import LONGEST_UNWRITTEN_SECONDS, MAX_PODS, PodUsage, UsageReading
from fedgpu_operator.errors import InvalidResourceError

TERMINAL_PHASES = frozenset({"Succeeded", "Failed"})

LIVE_PHASES = frozenset({"Pending", "Running"})
"""Pending too: a pod with one container started and another one's image still coming holds its GPUs already."""


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """One container status; the instants are whole seconds by the member's clock, None if there is none yet."""

    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What metering needs of one pod on the member; `deleted_at` is its deletionTimestamp (grace included)."""

    name: str
    uid: str
    index: int
    phase: str
    gpus: int
    containers: tuple[ContainerFacts, ...] = ()
    deleted_at: datetime | None = None


def measure(pods: Iterable[PodFacts], now: datetime, previous: UsageReading | None) -> UsageReading:
    """Cumulative usage of one lease from the pods the member shows now and the reading before.

    `now` is the caller's clock and only ever used as a duration against `previous.observed_at` or a start. A pod that
    the member no longer shows keeps its last reading. `sequence` rises only with a change, so an equal sequence
    means "nothing to write"; give the newest returned value back as `previous` all the same, its `observed_at`
    is what bounds a skewed member clock. Raises InvalidResourceError (TooManyPods) beyond `MAX_PODS` present pods.
    """
    facts = list(pods)
    if len({fact.uid for fact in facts}) > MAX_PODS:
        raise InvalidResourceError(
            "TooManyPods", f"the member shows {len(facts)} pods for one lease, at most {MAX_PODS} can be metered"
        )
    known = {pod.uid: pod for pod in previous.pods} if previous else {}
    since = previous.observed_at if previous else None
    present = {fact.uid: _measure_pod(fact, now, known.get(fact.uid), since) for fact in facts}
    gone = [pod for uid, pod in known.items() if uid not in present]
    kept, folded = _fold(list(present.values()), gone, previous.folded_gpu_seconds if previous else 0)
    reading = UsageReading(
        sequence=previous.sequence + 1 if previous else 1,
        gpu_seconds=folded + sum(pod.gpu_seconds for pod in kept),
        started_at=_first_start(kept, previous),
        finished_at=_last_end(kept, gone, previous),
        observed_at=now,
        pods=tuple(sorted(kept, key=lambda pod: (pod.index, pod.uid))),
        folded_gpu_seconds=folded,
    )
    if previous and replace(reading, sequence=previous.sequence, observed_at=previous.observed_at) == previous:
        return replace(previous, observed_at=now)
    return reading


def _measure_pod(fact: PodFacts, now: datetime, known: PodUsage | None, since: datetime | None) -> PodUsage:
    starts = [c.started_at for c in fact.containers if c.started_at is not None]
    if known and known.started_at:
        starts.append(known.started_at)
    floor = known.seconds if known else 0
    # A pod's GPU request cannot change while it lives, so another figure later is a mistake or a lie.
    gpus = known.gpus if known else fact.gpus
    if not starts:
        return PodUsage(fact.uid, fact.name, fact.index, gpus, floor)
    started = min(starts)
    finished = _finish(fact)
    if finished is not None:
        elapsed = _seconds(started, finished)
    elif fact.phase in LIVE_PHASES:
        elapsed = _running_seconds(fact, started, now, floor, since)
    else:
        # Nobody can say when it ended (a lost node), or whether it runs at all: what is proven stays, no more.
        elapsed = 0
    return PodUsage(
        fact.uid, fact.name, fact.index, gpus, max(elapsed, floor, 1), started_at=started, finished_at=finished
    )


def _finish(fact: PodFacts) -> datetime | None:
    """The last end, once every container that ever started has one and the pod is past restarting."""
    if fact.phase not in TERMINAL_PHASES:
        return None
    ends = [c.finished_at for c in fact.containers if c.finished_at is not None]
    still = any(c.started_at is not None and c.finished_at is None for c in fact.containers)
    return max(ends) if ends and not still else None


def _running_seconds(fact: PodFacts, started: datetime, now: datetime, floor: int, since: datetime | None) -> int:
    """Elapsed time of a running pod, bounded so that neither a skewed start nor a dead node can stretch it."""
    # The kubelet has killed everything by the deletionTimestamp; a node that is lost only leaves the object behind.
    until = min(now, fact.deleted_at) if fact.deleted_at else now
    elapsed = _seconds(started, until)
    if since is None:
        return elapsed
    # Between two looks no more can have passed than the agent's own clock says: the member's skew cancels out.
    return min(elapsed, floor + max(_seconds(since, now), 0))


def _seconds(begin: datetime, end: datetime) -> int:
    """Whole seconds between two instants, each taken to the second as Kubernetes writes them; may be negative."""
    return int((end.replace(microsecond=0) - begin.replace(microsecond=0)).total_seconds())


def _fold(present: list[PodUsage], gone: list[PodUsage], folded: int) -> tuple[list[PodUsage], int]:
    """Keep at most MAX_PODS in detail: of the pods that are gone, the oldest become one number."""
    room = MAX_PODS - len(present)
    order = sorted(gone, key=_newest_first)
    return present + order[:room], folded + sum(pod.gpu_seconds for pod in order[room:])


def _newest_first(pod: PodUsage) -> tuple[float, str]:
    return (-pod.started_at.timestamp() if pod.started_at else 0.0, pod.uid)


def _first_start(pods: Sequence[PodUsage], previous: UsageReading | None) -> datetime | None:
    starts = [pod.started_at for pod in pods if pod.started_at]
    if previous and previous.started_at:
        starts.append(previous.started_at)
    return min(starts, default=None)


def _last_end(pods: Sequence[PodUsage], gone: Sequence[PodUsage], previous: UsageReading | None) -> datetime | None:
    """The last known end once nothing runs; a pod that is gone without one ended at some unknown time before."""
    lost = {pod.uid for pod in gone}
    if any(pod.started_at and not pod.finished_at and pod.uid not in lost for pod in pods):
        return None
    ends = [pod.finished_at for pod in pods if pod.finished_at]
    if previous and previous.finished_at:
        ends.append(previous.finished_at)
    return max(ends, default=None)


SECONDS: Final = 2
"""Per GPU. Kubernetes writes whole seconds, so either end of a run may be off by one, at the member and at the hub."""
PARTS: Final = 100
"""One part in this many of the claim: clocks that are kept by NTP drift far less, a wrong meter far more."""


def tolerance(claimed: int, gpus: int) -> int:
    """GPU-seconds by which two honest readings of `claimed` GPU-seconds on `gpus` GPUs may differ, rounded down."""
    return max(SECONDS * gpus, claimed // PARTS)


def disputed(claimed: int, payable: int, gpus: int) -> int:
    """GPU-seconds of the claim that are in dispute beside what is `payable`: all of the difference, or none of it.

    Within the tolerance the smaller figure stands and nobody is bothered; beyond it the smaller one is paid and the
    whole rest waits for a ruling.
    """
    difference = max(0, claimed - payable)
    return difference if difference > tolerance(claimed, gpus) else 0


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
