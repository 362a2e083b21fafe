"""Jobs as placement sees them, each read once as long as nothing that it is read against changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from fedgpu_operator.domain.job import Job, Policy
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.vantage import Vantage
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.hub.faults import FaultBook
from fedgpu_operator.hub.jobfacts import JobFacts
from fedgpu_operator.hub.placing import domain_job, hosts_of, policies_by_namespace
from fedgpu_operator.hub.priorities import Priorities, PriorityBook
from fedgpu_operator.hub.store import HubState
from fedgpu_operator.hub.watched import Watched
from fedgpu_operator.ports import Clock, Kube

RETRY_SECONDS = 30
"""A job that found no place is judged again at least so often: deadlines, cool-downs and measurements go by time."""
SHARED: Final = ("gpu", "rules", "latency", "rates", "data")
"""The parts of a job that many jobs have alike."""
MOST_PARTS: Final = 50_000


@dataclass(frozen=True, slots=True)
class Asked:
    """A job that asks for a place, or why it cannot be read; `against` and `tick` are what it was read against."""

    facts: JobFacts
    against: object
    tick: int
    job: Job | None
    error: InvalidResourceError | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """What the jobs of one pass are read against, beside themselves.

    `laws` are the policies of each namespace, `broken` why its law cannot be read, `against` an object per namespace
    that is the same one as long as a job there would be read as it was, but for what goes by time alone: that is read
    again in each half minute, which `tick` counts.
    """

    now: datetime
    tick: int
    laws: Mapping[str, tuple[Policy, ...]]
    broken: Mapping[str, InvalidResourceError]
    hosts: Mapping[str, MicroUSD | None]
    priorities: Priorities
    cooling: Mapping[str, Mapping[str, str]]
    against: Mapping[str, object]


class JobReader:
    """Reads the jobs of one loop; what is remembered spares work, and a fresh reader gives equal jobs."""

    def __init__(
        self, kube: Kube, clock: Clock, faults: FaultBook, *, cooldown: timedelta, vantages: tuple[Vantage, ...]
    ) -> None:
        self._priorities = PriorityBook(kube, clock)
        self._faults = faults
        self._cooldown = cooldown
        self._vantages = vantages
        self._providers = Watched()
        self._hosts: dict[str, MicroUSD | None] = {}
        self._law: object = None
        self._laws: dict[str, tuple[Policy, ...]] = {}
        self._broken: dict[str, InvalidResourceError] = {}
        self._against: dict[str, tuple[object, ...]] = {}
        self._asked: dict[str, Asked] = {}
        self._parts: dict[object, Any] = {}

    async def frame(self, state: HubState, namespaces: Iterable[str], now: datetime) -> Frame:
        """What jobs of these namespaces are read against now; raises KubeError where the priorities cannot be known."""
        spaces = set(namespaces)
        if self._providers.changed(state.providers.values()):
            hosts = hosts_of(state.providers)
            self._hosts = self._hosts if hosts == self._hosts else hosts
        law = state.policies, state.unreadable_policies, state.namespaces
        if law != self._law:
            self._law, self._laws, self._broken = law, {}, {}
        if new := spaces - self._laws.keys():
            laws, broken = policies_by_namespace(state, new)
            self._laws |= laws
            self._broken |= broken
        priorities, tick = await self._priorities.look(), int(now.timestamp()) // RETRY_SECONDS
        cooling = {namespace: self._faults.cooling(namespace, now) for namespace in spaces}
        for namespace in spaces:
            account = state.accounts.get(namespace)
            cap = account.spec.max_per_job if account is not None else None
            why = str(self._broken.get(namespace, ""))
            stamp = (cap, why, dict(cooling[namespace]), self._hosts, priorities)
            if self._against.get(namespace) != stamp:
                self._against[namespace] = stamp
        return Frame(
            now, tick, self._laws, self._broken, self._hosts, priorities, cooling, {n: self._against[n] for n in spaces}
        )

    def known(self, uid: str) -> Asked | None:
        """How the job was read the last time."""
        return self._asked.get(uid)

    def read(self, facts: JobFacts, frame: Frame, state: HubState) -> Asked:
        """The job as placement sees it; the very same answer, or at least job, where nothing of it changed."""
        uid, namespace = facts.job.metadata.uid, facts.job.metadata.namespace
        known, against = self._asked.get(uid), frame.against[namespace]
        if known is not None and known.against is against and _same_facts(known.facts, facts):
            # By time alone go the cool-downs of its own attempts, and another try at what could not be read or started.
            timeless = not (facts.usage or facts.invalid or known.error)
            if timeless or known.tick == frame.tick:
                return known
        try:
            job: Job | None = self._read(facts, frame, state)
            error = None
        except InvalidResourceError as refused:
            job, error = None, refused
        if known is not None and known.job == job:
            # The very object, so that placement sees at a glance that it is no other job.
            job = known.job
        elif job is not None:
            job = self._shared(job)
        self._asked[uid] = asked = Asked(facts, against, frame.tick, job, error)
        return asked

    def _shared(self, job: Job) -> Job:
        """The job with parts that are the same objects as those of jobs that are alike: grouping goes by that."""
        if len(self._parts) > MOST_PARTS:
            self._parts.clear()
        parts = {name: getattr(job, name) for name in SHARED}
        return replace(job, **{name: self._parts.setdefault((name, part), part) for name, part in parts.items()})

    def only(self, uids: Iterable[str]) -> None:
        """Forget all jobs but these."""
        self._asked = {uid: known for uid in uids if (known := self._asked.get(uid)) is not None}

    def _read(self, facts: JobFacts, frame: Frame, state: HubState) -> Job:
        namespace = facts.job.metadata.namespace
        if namespace in frame.broken:
            raise frame.broken[namespace]
        job = domain_job(
            facts,
            state.accounts.get(namespace),
            frame.now,
            self._cooldown,
            hosts=frame.hosts,
            vantages=self._vantages,
            cooling=frame.cooling[namespace],
        )
        priority = frame.priorities.of(facts.job)
        return replace(job, priority=priority.value, preempts=priority.preempts)


def _same_facts(one: JobFacts, two: JobFacts) -> bool:
    """Whether both have the same objects in all that a job is read from."""
    return one.job is two.job and one.usage is two.usage and one.lease is two.lease
