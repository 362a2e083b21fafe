"""Jobs that nothing can tell apart, found in a million of them: by identity of their parts, then by plugins' keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from fedgpu_operator.domain.job import Job
from fedgpu_operator.placement.context import Context, Guards, Snapshot
from fedgpu_operator.placement.registry import Guard
from fedgpu_operator.placement.table import Uids


@dataclass(frozen=True, slots=True, eq=False)
class JobGroup:
    """Equal jobs, as far as any plugin, the funds and the solver can see.

    `ctx.job` is one of them. `members` are their uids, sorted. `filters` and `pricers` are the keys of the plugins
    in their order. `payer` is the namespace whose funds bind them; None if funds are unlimited.
    """

    ctx: Context
    members: Uids
    filters: tuple[Hashable, ...]
    pricers: tuple[Hashable, ...]
    payer: str | None

    @property
    def key(self) -> Hashable:
        """Equal exactly if judgement, words, funds and load are: the latency and policies are shown to people."""
        job = self.ctx.job
        shape = job.priority, job.gpu.count, job.replicas, job.run_limit
        return shape, self.filters, self.pricers, self.payer, job.latency, self.ctx.policies


class Grouping:
    """Finds the groups of each pass; policies that stayed equal are the same objects from pass to pass."""

    def __init__(self, guard: Guard) -> None:
        self._filters = [guard.keyed(each) for each in guard.plugins.filters]
        self._pricers = [guard.keyed(each) for each in guard.plugins.pricers]
        self._same: Mapping[Guards, Guards] = {}

    def groups(self, snapshot: Snapshot) -> list[JobGroup]:
        """All jobs in groups by descending priority and then least uid; the order of the jobs changes nothing."""
        contexts = _Contexts(snapshot, self._same)
        self._same = contexts.same
        equal: dict[Hashable, list[JobGroup]] = defaultdict(list)
        for job, uids in alike(snapshot.jobs).values():
            group = self._group(job, uids, contexts)
            equal[group.key].append(group)
        groups = [
            first
            if not more
            else replace(first, members=Uids([*chain(first.members, *(each.members for each in more))]))
            for first, *more in equal.values()
        ]
        return sorted(groups, key=lambda each: (-each.ctx.job.priority, each.members.first))

    def alone(self, job: Job, snapshot: Snapshot) -> JobGroup:
        """The group of this job only."""
        return self._group(job, [job.uid], _Contexts(snapshot, self._same))

    def _group(self, job: Job, uids: list[str], contexts: _Contexts) -> JobGroup:
        ctx = contexts.of(job)
        filters = tuple([key(ctx) for key in self._filters])
        pricers = tuple([key(ctx) for key in self._pricers])
        return JobGroup(ctx, Uids(uids), filters, pricers, contexts.payer(job))


class _Contexts:
    """What binds a job besides its own rules, once per namespace; `same` are the policies met so far."""

    def __init__(self, snapshot: Snapshot, before: Mapping[Guards, Guards]) -> None:
        self._snapshot = snapshot
        self._before = before
        self._guards: dict[str, Guards] = {}
        self.same: dict[Guards, Guards] = {}

    def of(self, job: Job) -> Context:
        """The job with its namespace's policies by name; equal ones are the same object."""
        return Context(job, self._bound(job.namespace), self._snapshot.default_deny, self._snapshot.now)

    def payer(self, job: Job) -> str | None:
        """The namespace if its funds are limited, else None. A namespace without an entry has no funds."""
        return None if self._snapshot.funds.get(job.namespace, 0) is None else job.namespace

    def _bound(self, namespace: str) -> Guards:
        known = self._guards.get(namespace)
        if known is None:
            policies = self._snapshot.policies.get(namespace, ())
            ordered = Guards(sorted(policies, key=lambda policy: (policy.name, policy.generation)))
            ordered = self._before.get(ordered, ordered)
            known = self._guards[namespace] = self.same.setdefault(ordered, ordered)
        return known


def alike(jobs: Iterable[Job]) -> dict[Hashable, tuple[Job, list[str]]]:
    """Jobs whose plain fields are equal and whose other parts are the same objects: one of them, and all their uids.

    Every field counts but uid and name. They are spelt out because that takes half as long as an attrgetter. Parts with
    a slow hash go by identity, and so do mappings, which have none; every job has one of its own, most often empty.
    """
    found: dict[Hashable, tuple[Job, list[str]]] = {}
    for job in jobs:
        key = (
            id(job.gpu),
            id(job.rules),
            id(job.latency),
            id(job.rates),
            id(job.data),
            id(job.avoid) if job.avoid else 0,
            job.namespace,
            job.replicas,
            job.run_limit,
            job.priority,
            job.max_price,
            job.budget_left,
            job.deadline,
            job.output_mib,
            job.checkpoint_seconds,
            job.checkpoint_country,
            job.preempts,
        )
        known = found.get(key)
        if known is None:
            found[key] = job, [job.uid]
        else:
            known[1].append(job.uid)
    return found
