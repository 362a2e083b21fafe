"""What the job loop remembers between passes: which jobs need no look. To forget it costs time, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from zlib import crc32

from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.domain.books import LeaseUsage
from fedgpu_operator.hub.jobfacts import JobFacts, Phase
from fedgpu_operator.hub.store import HubState

FORGET_SECONDS: Final = 900
"""A job at rest is looked at anew after between once and twice this, each at an instant of its own."""
WAITING: Final = frozenset({Phase.PENDING, Phase.DRY_RUN, Phase.INVALID})


@dataclass(frozen=True, slots=True)
class Rest:
    """A job as it was when nothing was left to do.

    `settled` is what else a job depends on that waits for money; `waiting` are the facts of one that waits for a place.
    """

    job: ComputeJob
    lease: ComputeLease | None
    lease_name: str
    until: datetime
    settled: object
    waiting: JobFacts | None


@dataclass(frozen=True, slots=True)
class Look:
    """The jobs that a pass has to look at, and the facts of all others that wait for a place."""

    restless: list[ComputeJob]
    waiting: list[JobFacts]


class JobMemory:
    """Keeps, by job uid, the ledger's entries (which only this process writes) and what was at rest.

    An object that did not change is the very same one in the next state, so a look is a comparison of identities. A
    reading that makes all objects anew finds nothing at rest.
    """

    def __init__(self) -> None:
        self._rests: dict[str, Rest] = {}
        self._usage: dict[str, tuple[LeaseUsage, ...]] = {}
        self._same: dict[str, object] = {}
        self.known: frozenset[str] = frozenset()
        """The jobs of the last pass."""

    def same(self, name: str, value: object) -> object:
        """The object that was last given under that name, where it is equal to this one: compared once, not per job."""
        last = self._same.get(name)
        if last is None or last != value:
            self._same[name] = last = value
        return last

    def look(
        self,
        state: HubState,
        now: datetime,
        *,
        settled: object,
        stop: Collection[str] = (),
        done: Callable[[ComputeJob], bool] = lambda _: False,
    ) -> Look:
        """What there is to look at.

        `settled`, from `same`, is the very object of the last pass as long as nothing moved for jobs that wait for
        money; `stop` names leases that must not go on. Jobs that are `done` are nobody's concern, though after a
        restart nothing is remembered of them.
        """
        found, waiting = [], []
        rests, leases = self._rests, state.leases
        for job in state.jobs:
            rest = rests.get(job.metadata.uid)
            if (
                rest is not None
                and rest.job is job
                and rest.lease is leases.get(rest.lease_name)
                and now < rest.until
                and (rest.waiting is not None or rest.settled is settled)
                and rest.lease_name not in stop
            ):
                if rest.waiting is not None:
                    waiting.append(rest.waiting)
            elif not done(job):
                found.append(job)
        return Look(found, waiting)

    def usage(self, uid: str) -> tuple[LeaseUsage, ...] | None:
        """What the ledger holds of a job, None where that is to be asked."""
        return self._usage.get(uid)

    def learn(self, histories: dict[str, tuple[LeaseUsage, ...]], asked: Iterable[str]) -> None:
        """What the ledger answered about these jobs."""
        for uid in asked:
            self._usage[uid] = histories.get(uid, ())

    def keep(self, facts: JobFacts, where: Phase, now: datetime, settled: object) -> None:
        """Nothing is left to do for that job until something of it changes, or `settled` where it has no place to get.

        One that waits for a place is decided on by its facts as they are here, whenever others are.
        """
        uid, newest = facts.job.metadata.uid, facts.newest
        self._usage[uid] = facts.usage
        name = newest.lease_name if newest is not None else ""
        until = _until(uid, now, facts.job.spec.deadline)
        waiting = _slim(facts) if where in WAITING else None
        self._rests[uid] = Rest(facts.job, facts.lease, name, until, settled, waiting)

    def answer(self, facts: JobFacts) -> None:
        """What was decided on a job that waits on, of which nothing had to be written."""
        rest = self._rests.get(facts.job.metadata.uid)
        if rest is not None and rest.waiting is not facts:
            self._rests[facts.job.metadata.uid] = replace(rest, waiting=_slim(facts))

    def wake(self, uid: str) -> None:
        """That job is looked at; unless it comes to rest again, it will be in the next pass too."""
        self._rests.pop(uid, None)

    def know(self, facts: JobFacts) -> None:
        """What the ledger holds of a job that is not at rest."""
        self._usage[facts.job.metadata.uid] = facts.usage

    def forget(self, uid: str) -> None:
        """Something went wrong with that job: all of it is read anew."""
        self._rests.pop(uid, None)
        self._usage.pop(uid, None)

    def only(self, jobs: Sequence[ComputeJob]) -> bool:
        """Drop all but these; whether some that were there are gone, or nothing was known yet."""
        present = frozenset(job.metadata.uid for job in jobs)
        gone, first = self.known - present, not self.known
        self.known = present
        _drop(self._rests, gone)
        _drop(self._usage, gone)
        return bool(gone) or first


def _slim(facts: JobFacts) -> JobFacts:
    """The facts without the verdicts, which hold on to all offers of their pass; the next decision has its own."""
    decision = facts.decision
    if decision is None or not decision.verdicts:
        return facts
    return replace(facts, decision=replace(decision, verdicts=()))


def _until(uid: str, now: datetime, deadline: datetime | None) -> datetime:
    """When a job at rest is looked at anew though nothing changed."""
    spread = crc32(uid.encode()) % FORGET_SECONDS
    due = now + timedelta(seconds=FORGET_SECONDS + spread)
    return due if deadline is None or deadline <= now else min(due, deadline)


def _drop(entries: dict[str, Rest] | dict[str, tuple[LeaseUsage, ...]], gone: Collection[str]) -> None:
    for uid in gone:
        entries.pop(uid, None)
