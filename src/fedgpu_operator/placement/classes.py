"""Jobs that nothing can tell apart, found in a million of them: by identity of their parts, then by plugins' keys."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from fedgpu_operator.domain.job import Job
from fedgpu_operator.placement.context import Context, Guards
from fedgpu_operator.placement.guard import Guard
from fedgpu_operator.placement.snapshot import Snapshot
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
        merged: dict[_Key, tuple[_Kind, list[list[str]]]] = {}
        for job, uids in alike(snapshot.jobs).values():
            kind = self._kind(job, contexts)
            merged.setdefault(kind.key, (kind, []))[1].append(uids)
        groups = [kind.group(members) for kind, members in merged.values()]
        return sorted(groups, key=lambda each: (-each.ctx.job.priority, each.members.first))

    def alone(self, job: Job, snapshot: Snapshot) -> JobGroup:
        """The group of this job only."""
        return self._kind(job, _Contexts(snapshot, self._same)).group([[job.uid]])

    def _kind(self, job: Job, contexts: _Contexts) -> _Kind:
        ctx = contexts.of(job)
        filters = tuple([key(ctx) for key in self._filters])
        pricers = tuple([key(ctx) for key in self._pricers])
        # Equal exactly where judgement, words, funds and load are: the latency and policies are shown to people.
        shape = job.priority, job.gpu.count, job.replicas, job.run_limit
        payer = contexts.payer(job)
        return _Kind(ctx, filters, pricers, payer, _Key((shape, filters, pricers, payer, job.latency, ctx.policies)))


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


class _Key:
    """Names a group; hashed once, since its parts are slow to hash."""

    __slots__ = ("_hash", "_parts")

    def __init__(self, parts: Hashable) -> None:
        self._parts, self._hash = parts, hash(parts)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._hash == other._hash and self._parts == other._parts


@dataclass(frozen=True, slots=True, eq=False)
class _Kind:
    """All of a group but who is in it."""

    ctx: Context
    filters: tuple[Hashable, ...]
    pricers: tuple[Hashable, ...]
    payer: str | None
    key: _Key

    def group(self, members: Sequence[list[str]]) -> JobGroup:
        """The group of all these uids."""
        uids = members[0] if len(members) == 1 else list(chain.from_iterable(members))
        return JobGroup(self.ctx, Uids(uids), self.filters, self.pricers, self.payer)


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
