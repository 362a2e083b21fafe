"""Jobs that nothing can tell apart, found in a million of them: by identity of their parts, then by plugins' keys."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain

from fedgpu_operator.domain.job import Job
from fedgpu_operator.placement.context import Context, Guards
from fedgpu_operator.placement.guard import Guard
from fedgpu_operator.placement.snapshot import Snapshot
from fedgpu_operator.placement.table import Uids, moved


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
        """`follows`: whether another pass will; then uids are prepared for it at once, as all are looked at anyway."""
        self._follows = follows
        self._filters = [guard.keyed(each) for each in guard.plugins.filters]
        self._pricers = [guard.keyed(each) for each in guard.plugins.pricers]
        self._guard = guard
        self._contexts = _Contexts(Snapshot(datetime.min.replace(tzinfo=UTC), (), ()), {})
        self._doubtful = False
        self._jobs: tuple[Job, ...] = ()
        self._buckets: dict[Hashable, _Bucket] = {}

    def groups(self, snapshot: Snapshot) -> list[Group]:
        """All jobs in groups by descending priority and then least uid; the order of the jobs changes nothing."""
        self._buckets = _followed(self._buckets, self._jobs, snapshot.jobs)
        self._jobs = snapshot.jobs
        if self._follows:
            for bucket in self._buckets.values():
                bucket.uids.prepare()
        return self._grouped(snapshot)

    def changed(self, gone: Sequence[Job], come: Sequence[Job], rest: Snapshot | None = None) -> list[Group]:
        """The groups of the last pass without the jobs `gone`, with those `come`; `rest` is all but the jobs.

        Without `rest` all that stayed as it was, so that only jobs unlike any in the last pass are asked about. Raises
        ValueError where a job that is gone was not among them, as it is handed in here; then nothing changed.
        """
        self._buckets = _replaced(self._buckets, gone, come)
        self._jobs = ()
        return self._grouped(rest)

    def _grouped(self, snapshot: Snapshot | None) -> list[Group]:
        if snapshot is not None:
            self._contexts = _Contexts(snapshot, self._contexts.same)
        failed = self._guard.failed
        merged: dict[_Key, tuple[_Kind, list[Uids]]] = {}
        for bucket in self._buckets.values():
            if bucket.kind is None or snapshot is not None or self._doubtful:
                bucket.kind = self._kind(bucket.job, self._contexts)
            merged.setdefault(bucket.kind.key, (bucket.kind, []))[1].append(bucket.uids)
        # A third party's plugin that failed is asked again in the next pass.
        self._doubtful = self._guard.failed != failed
        groups = [kind.group(members) for kind, members in merged.values()]
        return sorted(groups, key=lambda each: (-each.ctx.job.priority, each.members.first))

    def alone(self, job: Job, snapshot: Snapshot) -> Group:
        """The group of this job only."""
        return self._kind(job, _Contexts(snapshot, self._contexts.same)).group([Uids([job.uid], ordered=True)])

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
    """Names a group; hashed once, for it is looked up in every pass, and takes long to hash."""

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

    def group(self, members: Sequence[Uids]) -> Group:
        """The group of these."""
        uids = members[0] if len(members) == 1 else Uids(list(chain.from_iterable(members)))
        return Group(self.ctx, uids, self.filters, self.pricers, self.payer, self.key)


@dataclass(slots=True, eq=False)
class _Bucket:
    """Jobs that are equal at first sight: one of them, the uids of all, and what they were found to be, if asked."""

    job: Job
    uids: Uids
    kind: _Kind | None = None


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
        less, more = lost.get(key), found.get(key)
        stood = known.get(key) or _Bucket((more or lost[key])[0], Uids([], ordered=True))
        uids = stood.uids.changed(less[1] if less else (), more[1] if more else ())
        if len(uids):
            buckets[key] = _Bucket(stood.job, uids, stood.kind)
        else:
            del buckets[key]
    return buckets


def _difference(before: tuple[Job, ...], now: tuple[Job, ...]) -> tuple[list[Job], list[Job]]:
    """The jobs, as objects, that are only in one of both; fast where most stand where they stood."""
    others = moved(before, now)
    least = min(len(before), len(now))
    old = [before[i] for i in others] + list(before[least:])
    new = [now[i] for i in others] + list(now[least:])
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
