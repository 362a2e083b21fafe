"""Jobs that nothing can tell apart, found in a million of them: by identity of their parts, then by plugins' keys."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import is_
from typing import NamedTuple

import numpy as np

from fedgpu_operator.domain.job import Job
from fedgpu_operator.placement.context import Context, Guards
from fedgpu_operator.placement.guard import Guard
from fedgpu_operator.placement.snapshot import Snapshot
from fedgpu_operator.placement.uids import Uids


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Equal jobs, as far as any plugin, the funds and the solver can see.

    `ctx.job` is one of them. `members` are their uids, sorted. `filters` and `pricers` are the keys of the plugins
    in their order. `payer` is the namespace whose funds bind them; None where funds are unlimited. `key` is equal for
    the same group in another pass.
    """

    ctx: Context
    members: Uids
    filters: tuple[Hashable, ...]
    pricers: tuple[Hashable, ...]
    payer: str | None
    key: Hashable


class Grouping:
    """Finds the groups of a pass. Only jobs that are other objects than in the pass before are looked at again."""

    def __init__(self, guard: Guard, *, follows: bool = True) -> None:
        """`follows`: whether another pass will; then uids are put in order at once, so that the next finds them so."""
        self._follows = follows
        self._filters = [guard.keyed(each) for each in guard.plugins.filters]
        self._pricers = [guard.keyed(each) for each in guard.plugins.pricers]
        self._same: dict[Guards, Guards] = {}
        self._jobs: tuple[Job, ...] = ()
        self._buckets: dict[Hashable, _Bucket] = {}

    def groups(self, snapshot: Snapshot) -> list[Group]:
        """All jobs in groups by descending priority and then least uid; the order of the jobs changes nothing."""
        self._buckets = _followed(self._buckets, self._jobs, snapshot.jobs)
        self._jobs = snapshot.jobs
        if self._follows:
            for bucket in self._buckets.values():
                bucket.uids.order()
        return self._grouped(snapshot)

    def changed(self, gone: Sequence[Job], come: Sequence[Job], rest: Snapshot) -> list[Group]:
        """The groups of the last pass without the jobs `gone`, with those `come`; `rest` is all but the jobs.

        Raises ValueError where a job that is gone was not among them, as it is handed in here; then nothing changed.
        """
        self._buckets = _replaced(self._buckets, gone, come)
        self._jobs = ()
        return self._grouped(rest)

    def _grouped(self, snapshot: Snapshot) -> list[Group]:
        contexts = _Contexts(snapshot, self._same)
        merged: dict[Hashable, _Draft] = {}
        for bucket in self._buckets.values():
            draft = self._draft(bucket.job, contexts)
            merged.setdefault(draft.key, draft).members.append(bucket.uids)
        self._same = contexts.same
        groups = [draft.group() for draft in merged.values()]
        return sorted(groups, key=lambda each: (-each.ctx.job.priority, each.members.first))

    def alone(self, job: Job, snapshot: Snapshot) -> Group:
        """The group of this job only."""
        draft = self._draft(job, _Contexts(snapshot, self._same))
        draft.members.append(Uids([job.uid], ordered=True))
        return draft.group()

    def _draft(self, job: Job, contexts: _Contexts) -> _Draft:
        ctx = contexts.of(job)
        filters = tuple([key(ctx) for key in self._filters])
        pricers = tuple([key(ctx) for key in self._pricers])
        return _Draft(ctx, filters, pricers, contexts.payer(job), [])


class _Contexts:
    """What binds a job beside its own rules, once per namespace; `same` are the policies met so far."""

    def __init__(self, snapshot: Snapshot, before: Mapping[Guards, Guards]) -> None:
        self._snapshot = snapshot
        self._before = before
        self._guards: dict[str, Guards] = {}
        self.same: dict[Guards, Guards] = {}

    def of(self, job: Job) -> Context:
        """The job with its namespace's policies by name; equal ones are the same object."""
        return Context(job, self._bound(job.namespace), self._snapshot.default_deny, self._snapshot.now)

    def payer(self, job: Job) -> str | None:
        """The namespace where its funds are limited, else None. One without an entry has none."""
        return None if self._snapshot.funds.get(job.namespace, 0) is None else job.namespace

    def _bound(self, namespace: str) -> Guards:
        known = self._guards.get(namespace)
        if known is None:
            policies = self._snapshot.policies.get(namespace, ())
            ordered = Guards(sorted(policies, key=lambda policy: (policy.name, policy.generation)))
            ordered = self._before.get(ordered, ordered)
            known = self._guards[namespace] = self.same.setdefault(ordered, ordered)
        return known


@dataclass(frozen=True, slots=True)
class _Draft:
    """A group while it is being collected."""

    ctx: Context
    filters: tuple[Hashable, ...]
    pricers: tuple[Hashable, ...]
    payer: str | None
    members: list[Uids]

    @property
    def key(self) -> Hashable:
        """Equal exactly where judgement, words, funds and load are: the latency and policies are shown to people."""
        job = self.ctx.job
        shape = job.priority, job.gpu.count, job.replicas, job.run_limit
        return shape, self.filters, self.pricers, self.payer, job.latency, self.ctx.policies

    def group(self) -> Group:
        """All that was collected."""
        members = self.members[0] if len(self.members) == 1 else Uids(list(chain.from_iterable(self.members)))
        return Group(self.ctx, members, self.filters, self.pricers, self.payer, self.key)


class _Bucket(NamedTuple):
    """Jobs that are equal at first sight: one of them, and the uids of all, sorted. Never changed, only replaced."""

    job: Job
    uids: Uids


def _followed(known: dict[Hashable, _Bucket], before: tuple[Job, ...], now: tuple[Job, ...]) -> dict[Hashable, _Bucket]:
    """The buckets of the jobs `now`, given those of the jobs `before`."""
    gone, come = _difference(before, now) if before else ([], list(now))
    if not before or 4 * (len(gone) + len(come)) > len(now):
        return {key: _Bucket(job, Uids(uids)) for key, (job, uids) in alike(now).items()}
    return _replaced(known, gone, come)


def _replaced(known: dict[Hashable, _Bucket], gone: Sequence[Job], come: Sequence[Job]) -> dict[Hashable, _Bucket]:
    """The buckets without some jobs and with others."""
    lost, found = alike(gone), alike(come)
    buckets = dict(known)
    for key in lost.keys() | found.keys():
        stood = known.get(key) or _Bucket((found.get(key) or lost[key])[0], Uids([], ordered=True))
        less, more = (each[key][1] if key in each else [] for each in (lost, found))
        uids = stood.uids.changed(less, more)
        if len(uids):
            buckets[key] = _Bucket(stood.job, uids)
        else:
            del buckets[key]
    return buckets


def _difference(before: tuple[Job, ...], now: tuple[Job, ...]) -> tuple[list[Job], list[Job]]:
    """The jobs, as objects, that are only in one of both; fast where most stand where they stood."""
    moved = np.flatnonzero(~np.frombuffer(bytes(map(is_, before, now)), dtype=np.bool_)).tolist()
    least = min(len(before), len(now))
    old = [before[i] for i in moved] + list(before[least:])
    new = [now[i] for i in moved] + list(now[least:])
    was, are = set(map(id, old)), set(map(id, new))
    return [job for job in old if id(job) not in are], [job for job in new if id(job) not in was]


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
