"""The job loop: follow what runs, place what waits, close what ended, and write each job's status once."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from datetime import timedelta

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.hub.attempts import JOBS, AttemptKeeper
from fedgpu_operator.hub.jobfacts import DELETED, JobFacts, Phase, phase
from fedgpu_operator.hub.jobstatus import is_settled
from fedgpu_operator.hub.jobwriter import JobWriter
from fedgpu_operator.hub.keeping import MoneyWatch
from fedgpu_operator.hub.placer import FINALIZER, JobPlacer
from fedgpu_operator.hub.proofs import ProofBook
from fedgpu_operator.hub.signatures import UsageVerifier
from fedgpu_operator.hub.solvency import Upkeep
from fedgpu_operator.hub.store import HubState, load
from fedgpu_operator.hub.write import one_of_many
from fedgpu_operator.ports import Clock, Kube, Ledger, Metrics
from fedgpu_operator.settlement import Thresholds

log = logging.getLogger(__name__)


class JobLoop:
    """Load → follow → decide → apply. Everything it knows it reads anew in each pass."""

    def __init__(
        self,
        kube: Kube,
        ledger: Ledger,
        clock: Clock,
        metrics: Metrics,
        *,
        proofs: ProofBook | None,
        default_deny: bool,
        cooldown: float,
        verifier: UsageVerifier | None = None,
        thresholds: Thresholds | None = None,
    ) -> None:
        self._kube = kube
        self._ledger = ledger
        self._clock = clock
        self._metrics = metrics
        self._proofs = proofs
        self._settlement = settlement = proofs is not None
        self._keeper = AttemptKeeper(kube, ledger, clock, metrics, verifier or UsageVerifier(None))
        self._money = MoneyWatch(kube, ledger, clock, thresholds or Thresholds())
        self._writer = JobWriter(kube, clock, settlement=settlement)
        self._placer = JobPlacer(
            kube,
            ledger,
            clock,
            metrics,
            self._keeper,
            self._writer,
            default_deny=default_deny,
            cooldown=timedelta(seconds=cooldown),
        )

    async def pass_once(self) -> float | None:
        """One pass over all jobs; asks for the next at the nearest deadline, or when some money comes to its end."""
        state = await load(self._kube, self._proofs)
        money = await self._money.look(state)
        await self._money.ask(state, money.save)
        followed: list[JobFacts] = []
        for job in state.jobs:
            with one_of_many(job):
                if not self._is_done(job):
                    followed.append(await self._follow(job, state, money))
        await self._wind_up_orphans(state, money)
        decided = await self._placer.place(followed, state)
        transactions = await self._transactions(decided)
        for facts in decided:
            with one_of_many(facts.job):
                if phase(facts, self._clock.now()) is Phase.DELETING and await self._release(facts, state):
                    continue
                await self._writer.write(facts, transactions)
        self._metrics.jobs(dict(Counter(job.status.state for job in state.jobs)))
        if self._placer.must_wait(state, self._clock.now()):
            return 1.0
        return self._next_deadline(state, money)

    def _next_deadline(self, state: HubState, money: Upkeep) -> float | None:
        now = self._clock.now()
        deadlines = [job.spec.deadline for job in state.jobs if job.spec.deadline is not None]
        ahead = [(deadline - now).total_seconds() for deadline in deadlines if deadline > now]
        ahead += [] if money.due is None else [money.due]
        return max(0.2, min(ahead)) if ahead else None

    def _is_done(self, job: ComputeJob) -> bool:
        """Whether nothing can happen to the job any more but deletion; it costs no look into the ledger."""
        return (
            job.metadata.deletion_timestamp is None
            and job.status.state in ("Succeeded", "Failed")
            and (is_settled(job.status) or (not self._settlement and job.status.placement is not None))
            and job.status.observed_generation == job.metadata.generation
        )

    async def _follow(self, job: ComputeJob, state: HubState, money: Upkeep) -> JobFacts:
        """The job's facts after its open attempt was followed."""
        usage = await self._keeper.usage(job.metadata.uid)
        facts = JobFacts(job=job, usage=usage)
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
                state.leases[facts.lease.metadata.name] = facts.lease
        covers = [await self._ledger.coverage(entry.attempt.lease_name) for entry in usage]
        return replace(facts, coverage=tuple(covers))

    async def _wind_up_orphans(self, state: HubState, money: Upkeep) -> None:
        """Open attempts whose job is not among those that could be read."""
        known = {job.metadata.uid for job in state.jobs}
        for entry in await self._ledger.open_attempts():
            name = entry.attempt.lease_name
            lease, provider = state.leases.get(name), state.providers.get(entry.attempt.terms.provider)
            if entry.attempt.terms.job_uid not in known:
                with one_of_many(lease):
                    await self._keeper.wind_up(entry, lease, provider, funded=name not in money.stop)

    async def _transactions(self, decided: list[JobFacts]) -> dict[int, tuple[str, str]]:
        """(post, claim) transaction hashes by epoch, for the epochs that cover these jobs."""
        numbers = {cover.epoch for facts in decided for cover in facts.coverage if cover.epoch is not None}
        found = {}
        for number in sorted(numbers):
            by_kind = {tx.kind: tx.tx_hash for tx in await self._ledger.transactions(epoch=number)}
            found[number] = (by_kind.get("post", ""), by_kind.get("claim", ""))
        return found

    async def _release(self, facts: JobFacts, state: HubState) -> bool:
        """Let a deleted job go once every attempt has stopped and is in the ledger; True when it is gone."""
        if facts.newest is not None and facts.newest.is_open:
            return False
        job = facts.job
        mine = [lease for lease in state.leases.values() if lease.spec.job.uid == job.metadata.uid]
        for known in mine:
            lease = known if known.spec.desired == "Stop" else await self._keeper.stop(known, DELETED)
            cleared = lease.status.observed_generation >= lease.metadata.generation
            if not cleared and _connected(lease.spec.provider, state):
                return False
            await self._keeper.remove(lease)
        if FINALIZER in job.metadata.finalizers:
            kept = [name for name in job.metadata.finalizers if name != FINALIZER]
            patch: JSONObject = {"metadata": {**job.metadata.guard(), "finalizers": kept}}
            await self._kube.patch(JOBS, job.metadata.name, job.metadata.namespace, patch)
        return True


def _connected(provider: str, state: HubState) -> bool:
    known = state.providers.get(provider)
    return known is not None and known.status.state == "Ready"
