"""The job loop: follow what runs, place what waits, close what ended, and write each job's status once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from zlib import crc32

from fedgpu_operator.api.base import READY, is_false, is_true
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.domain.attempts import AttemptUsage, Stop
from fedgpu_operator.errors import InvalidResourceError, LedgerError
from fedgpu_operator.hub.services.attempts import AttemptKeeper, is_cleared
from fedgpu_operator.hub.services.changes import ChangeDetector, ObjectCounts
from fedgpu_operator.hub.services.costs import CostBook, FaultBook
from fedgpu_operator.hub.services.hubstate import HubState, load
from fedgpu_operator.hub.services.moves import Mover, Usage
from fedgpu_operator.hub.services.scheduler import JobPlacer
from fedgpu_operator.hub.services.solvency import MoneyWatch, Upkeep
from fedgpu_operator.hub.services.wallets import ProofBook
from fedgpu_operator.hub.services.writes import Writers, for_each, one_of_many
from fedgpu_operator.hub.views.jobfacts import DELETED, UNSTARTED, JobFacts, Phase, failed_attempt, phase
from fedgpu_operator.hub.views.jobs import is_settled
from fedgpu_operator.ports import Clock, Kube, Ledger, Metrics

log = logging.getLogger(__name__)

FORGET_SECONDS: Final = 900
"""A job at rest is looked at anew after between once and twice this, each at an instant of its own."""
WAITING: Final = frozenset({Phase.PENDING, Phase.DRY_RUN, Phase.INVALID})


@dataclass(frozen=True, slots=True)
class QuietJob:
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
class PassScope:
    """The jobs that a pass has to look at, and the facts of all others that wait for a place."""

    restless: list[ComputeJob]
    waiting: list[JobFacts]


class JobMemory:
    """Keeps, by job uid, the ledger's entries (which only this process writes) and what was at rest.

    An object that did not change is the very same one in the next state, so a look is a comparison of identities. A
    reading that makes all objects anew finds nothing at rest.
    """

    def __init__(self) -> None:
        self._rests: dict[str, QuietJob] = {}
        self._usage: dict[str, tuple[AttemptUsage, ...]] = {}
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
    ) -> PassScope:
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
        return PassScope(found, waiting)

    def usage(self, uid: str) -> tuple[AttemptUsage, ...] | None:
        """What the ledger holds of a job, None where that is to be asked."""
        return self._usage.get(uid)

    def learn(self, histories: dict[str, tuple[AttemptUsage, ...]], asked: Iterable[str]) -> None:
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
        self._rests[uid] = QuietJob(facts.job, facts.lease, name, until, settled, waiting)

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


def _drop(entries: dict[str, QuietJob] | dict[str, tuple[AttemptUsage, ...]], gone: Collection[str]) -> None:
    for uid in gone:
        entries.pop(uid, None)


class JobLoop:
    """Load → follow → decide → apply. What it remembers between passes spares work; it decides nothing."""

    def __init__(
        self,
        kube: Kube,
        ledger: Ledger,
        clock: Clock,
        metrics: Metrics,
        *,
        writers: Writers,
        proofs: ProofBook | None,
        costs: CostBook,
        faults: FaultBook,
        money: MoneyWatch,
        keeper: AttemptKeeper,
        placer: JobPlacer,
        mover: Mover,
        memory: JobMemory,
        keep: float,
    ) -> None:
        """`keep` is for how many seconds a lease stays after its attempt has ended."""
        self._kube = kube
        self._ledger = ledger
        self._clock = clock
        self._metrics = metrics
        self._writer, self._leases = writers.jobs, writers.leases
        self._proofs = proofs
        self._settlement = proofs is not None
        self._costs = costs
        self._faults = faults
        self._money = money
        self._keeper = keeper
        self._placer = placer
        self._mover = mover
        self._memory = memory
        self._keep = timedelta(seconds=keep)
        self._jobs_counted, self._providers_counted = ChangeDetector(), ChangeDetector()
        self._jobs = ObjectCounts(_counted_as)
        self._orphaned = True

    async def pass_once(self) -> float | None:
        """One pass over all jobs; asks for the next at the nearest deadline, or when some money comes to its end."""
        state = await load(self._kube, self._proofs, self._costs)
        await self._faults.look()
        money = await self._money.look(state)
        await self._money.ask(state, money.save)
        # Kept until they are wound up: a pass that fails on the way must not lose them.
        self._orphaned |= self._memory.only(state.jobs)
        books = self._memory.same("books", await self._books())
        look = self._memory.look(state, self._clock.now(), settled=books, stop=money.stop, done=self._is_done)
        followed = await self._follow_all(look.restless, state, money)
        if self._orphaned:
            await self._wind_up_orphans(state, money)
        placed = await self._placer.place(followed, look.waiting, state)
        transactions = await self._transactions(placed.others)
        written = await for_each(lambda facts: self._write(facts, state, transactions), placed.others)
        for facts in (*placed.dispatched, *(each for each in written if each is not None)):
            self._remember(facts, books, money)
        if placed.anew:
            for facts in placed.waiting:
                self._memory.answer(facts)
        await self._writer.send_events()
        self._count(state)
        if placed.later or self._placer.must_wait(state, self._clock.now()):
            step = await self._mover.carry_on(state, self._entries)
            return 0.0 if placed.later else 1.0 if step is None else min(1.0, step)
        decided = [*placed.dispatched, *placed.others, *(placed.waiting if placed.anew else ())]
        step = await self._mover.move(decided, state, self._entries, anew=placed.anew)
        return self._next_deadline(state, money, step)

    def _count(self, state: HubState) -> None:
        """Show how many jobs are in which state and which providers answer, if that may have changed."""
        if self._jobs_counted.changed(state.jobs):
            states, waiting = Counter[str](), Counter[tuple[str, str]]()
            for (name, queue), count in self._jobs.look(state.jobs).items():
                states[name] += count
                if queue is not None:
                    waiting[queue] += count
            self._metrics.jobs(states)
            self._metrics.pending(waiting)
        if self._providers_counted.changed(state.providers.values()):
            reach = {name: is_true(each.status.conditions, "Connected") for name, each in state.providers.items()}
            self._metrics.providers(reach)

    def _next_deadline(self, state: HubState, money: Upkeep, step: float | None) -> float | None:
        now = self._clock.now()
        deadlines = [job.spec.deadline for job in state.jobs if job.spec.deadline is not None]
        ahead = [(deadline - now).total_seconds() for deadline in deadlines if deadline > now]
        ahead += [due for due in (money.due, step) if due is not None]
        return max(0.2, min(ahead)) if ahead else None

    def _is_done(self, job: ComputeJob) -> bool:
        """Whether nothing can happen to the job any more but deletion; it costs no look into the ledger."""
        return (
            job.metadata.deletion_timestamp is None
            and job.status.ended
            # What cannot be admitted shows as failed too, and may be admitted later.
            and not is_false(job.status.conditions, "Admitted")
            and (is_settled(job.status) or (not self._settlement and job.status.placement is not None))
            and job.status.observed_generation == job.metadata.generation
        )

    async def _books(self) -> object:
        """Equal as long as nothing moved for work that waits to be paid."""
        if not self._settlement:
            return None
        epochs = await self._ledger.epoch_headers()
        pending = await self._ledger.transactions(pending_only=True)
        return (tuple((each.number, each.stage) for each in epochs), tuple(each.tx_hash for each in pending))

    async def _follow_all(self, jobs: list[ComputeJob], state: HubState, money: Upkeep) -> list[JobFacts]:
        unknown = [uid for job in jobs if self._memory.usage(uid := job.metadata.uid) is None]
        if unknown:
            await self._learn(unknown)

        async def follow(job: ComputeJob) -> JobFacts | None:
            facts: list[JobFacts] = []
            self._memory.wake(job.metadata.uid)
            with one_of_many(job):
                facts.append(await self._follow(job, state, money))
            if not facts:
                self._memory.forget(job.metadata.uid)
                return None
            # What fails later in the pass must not leave an attempt open here that has ended in the ledger.
            self._memory.know(facts[0])
            return facts[0]

        return await self._covered([facts for facts in await for_each(follow, jobs) if facts is not None])

    async def _entries(self, uids: Collection[str]) -> Usage:
        """What the ledger holds of these jobs; of those that were forgotten meanwhile, it is asked."""
        unknown = [uid for uid in uids if self._memory.usage(uid) is None]
        if unknown:
            await self._learn(unknown)
        return {uid: entries for uid in uids if (entries := self._memory.usage(uid)) is not None}

    async def _learn(self, uids: list[str]) -> None:
        """What the ledger holds of these jobs, in one query; where that fails, each is asked for apart."""
        try:
            self._memory.learn(await self._ledger.histories(uids), uids)
        except LedgerError as error:
            log.warning("the attempts of %d jobs cannot be read at once: %s", len(uids), error)

    async def _follow(self, job: ComputeJob, state: HubState, money: Upkeep) -> JobFacts:
        """The job's facts after its open attempt was followed."""
        usage = self._memory.usage(job.metadata.uid)
        facts = JobFacts(job=job, usage=await self._keeper.usage(job.metadata.uid) if usage is None else usage)
        newest = facts.newest
        if newest is None:
            return facts
        facts = replace(facts, lease=state.leases.get(newest.lease_name))
        if newest.is_open:
            try:
                provider = state.providers.get(newest.terms.provider)
                funded = newest.lease_name not in money.stop
                facts = await self._keeper.follow(facts, newest, provider, funded=funded)
            except InvalidResourceError as error:
                facts = replace(facts, invalid=error)
            if facts.lease is not None:
                state.took(facts.lease)
            if (event := failed_attempt(facts)) is not None:
                self._writer.note(facts.job, event)
        if facts.newest is not None:
            self._faults.note(facts.newest)
        return facts

    async def _covered(self, followed: list[JobFacts]) -> list[JobFacts]:
        """The facts with how far each attempt is settled, in one query."""
        names = [entry.attempt.lease_name for facts in followed for entry in facts.usage]
        if not self._settlement or not names:
            return followed
        covers = await self._ledger.coverages(names)
        return [
            replace(facts, coverage=tuple(covers[entry.attempt.lease_name] for entry in facts.usage))
            for facts in followed
        ]

    async def _write(
        self, facts: JobFacts, state: HubState, transactions: Mapping[int, tuple[str, str]]
    ) -> JobFacts | None:
        """The facts with the job as it was written; None where that failed, or the job is gone."""
        written: JobFacts | None = None
        with one_of_many(facts.job):
            leaving = phase(facts, self._clock.now()) is Phase.DELETING
            if not (leaving and await self._release(facts, state)):
                written = await self._writer.show(facts, transactions)
        if written is None:
            self._memory.forget(facts.job.metadata.uid)
        return written

    def _remember(self, facts: JobFacts, books: object, money: Upkeep) -> None:
        """What is at rest is left alone until something of it changes."""
        now = self._clock.now()
        where = phase(facts, now)
        if where is Phase.DELETING or (where is Phase.ACTIVE and not _quiet(facts, money)):
            self._memory.know(facts)
        else:
            self._memory.keep(facts, where, now, books)

    async def _wind_up_orphans(self, state: HubState, money: Upkeep) -> None:
        """Open attempts, and leases, whose job is not among those that could be read."""
        known = self._memory.known
        orphans = [e for e in await self._ledger.open_attempts() if e.attempt.terms.job_uid not in known]
        for entry in orphans:
            name = entry.attempt.lease_name
            lease, provider = state.leases.get(name), state.providers.get(entry.attempt.terms.provider)
            with one_of_many(lease):
                ended = await self._keeper.wind_up(entry, lease, provider, funded=name not in money.stop)
                self._faults.note(ended)
        still = {entry.attempt.lease_name for entry in orphans}
        left = [
            lease
            for lease in state.leases.values()
            if lease.spec.job.uid not in known and lease.metadata.name not in still
        ]
        for lease in left:
            with one_of_many(lease):
                await self._keeper.collect(lease, deserted=lease.spec.provider not in state.providers)
        self._orphaned = bool(orphans or left)

    async def _transactions(self, decided: list[JobFacts]) -> dict[int, tuple[str, str]]:
        """(post, claim) transaction hashes by epoch, for the epochs that cover these jobs."""
        if not self._settlement:
            return {}
        numbers = {cover.epoch for facts in decided for cover in facts.coverage if cover.epoch is not None}
        found = {}
        for number in sorted(numbers):
            by_kind = {tx.kind: tx.tx_hash for tx in await self._ledger.transactions(epoch=number)}
            found[number] = (by_kind.get("post", ""), by_kind.get("claim", ""))
        return found

    async def _release(self, facts: JobFacts, state: HubState) -> bool:
        """Let a deleted job go once every attempt has stopped and is in the ledger; True when it is gone.

        A member that answers has cleared away its workloads by then. At one that does not, the tombstones stay, and are
        removed by `AttemptKeeper.collect` when it has come back and cleared them.
        """
        if facts.newest is not None and facts.newest.is_open:
            return False
        waiting = False
        for lease in await self._tombstones(facts, state):
            state.took(lease)
            waiting = waiting or (not is_cleared(lease) and _connected(lease.spec.provider, state))
        if waiting:
            return False
        self._orphaned = True
        await self._writer.remove_finalizer(facts.job)
        return True

    async def _tombstones(self, facts: JobFacts, state: HubState) -> list[ComputeLease]:
        """Every lease of the job, told to stop; one that was deleted by hand is made again to clear its member.

        Not one of an attempt that ended longer ago than leases are kept: the retention loop has deleted it, after its
        member was cleared.
        """
        stop = Stop(DELETED, self._clock.now())
        found = {lease.metadata.name: lease for lease in state.leases_for(facts.job.metadata.uid)}
        stopped = [
            lease if lease.spec.desired == "Stop" else await self._leases.stop(lease, stop) for lease in found.values()
        ]
        for entry in facts.usage:
            attempt = entry.attempt
            missing = attempt.lease_name not in found and attempt.outcome not in UNSTARTED
            kept = attempt.ended_at is None or stop.at < attempt.ended_at + self._keep
            if missing and kept and attempt.terms.provider in state.providers:
                stopped.append(await self._keeper.bury(entry, stop))
        return stopped


def _counted_as(job: ComputeJob) -> tuple[str, tuple[str, str] | None]:
    """The job's state and, where it waits for a place, its namespace and the reason."""
    waits = job.status.waits and job.metadata.deletion_timestamp is None
    return job.status.state, (job.metadata.namespace, job.status.reason) if waits else None


def _quiet(facts: JobFacts, money: Upkeep) -> bool:
    """Whether an open attempt needs nothing more: its lease is there, is not to be stopped, and all of it is billed."""
    lease = facts.lease
    if lease is None or facts.invalid is not None or lease.metadata.name in money.stop:
        return False
    usage = lease.status.usage
    billed = facts.usage[-1].sequence >= lease.spec.sequence_base + usage.sequence
    return (billed or not usage.gpu_seconds) and not lease.status.ended


def _connected(provider: str, state: HubState) -> bool:
    known = state.providers.get(provider)
    return known is not None and is_true(known.status.conditions, READY)
