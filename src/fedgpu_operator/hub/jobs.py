"""The job loop: follow what runs, place what waits, close what ended, and write each job's status once."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computejobstatus import ComputeJobStatus
from fedgpu_operator.domain.decision import Decision
from fedgpu_operator.domain.job import Job
from fedgpu_operator.errors import ConflictError, FedGPUError, InvalidResourceError, NotFoundError
from fedgpu_operator.hub.attempts import JOBS, AttemptKeeper
from fedgpu_operator.hub.jobevents import job_events
from fedgpu_operator.hub.jobfacts import DELETED, JobFacts, Phase, phase
from fedgpu_operator.hub.jobstatus import is_settled, job_status
from fedgpu_operator.hub.placing import all_offers, domain_job, funds_by_namespace, policies_by_namespace
from fedgpu_operator.hub.providers import awaits_report
from fedgpu_operator.hub.store import HubState, load
from fedgpu_operator.hub.write import emit, guard, write_status
from fedgpu_operator.placement import Snapshot, decide, evaluate
from fedgpu_operator.ports import Clock, Kube, Ledger, Metrics

log = logging.getLogger(__name__)

FINALIZER = "fedgpu.dev/lease"
SETTLE = timedelta(seconds=10)
"""How long placement waits for a new provider's first report; members answered within 1 s in the lab."""
ALL_ATTEMPTS = 1_000_000
"""As many as a job can have: its cost is the sum over all of them."""


class JobLoop:
    """Load → follow → decide → apply. Everything it knows it reads anew in each pass."""

    def __init__(
        self,
        kube: Kube,
        ledger: Ledger,
        clock: Clock,
        metrics: Metrics,
        *,
        settlement: bool,
        default_deny: bool,
        cooldown: float,
    ) -> None:
        self._kube = kube
        self._ledger = ledger
        self._clock = clock
        self._metrics = metrics
        self._keeper = AttemptKeeper(kube, ledger, clock, metrics)
        self._settlement = settlement
        self._default_deny = default_deny
        self._cooldown = timedelta(seconds=cooldown)
        self._began = clock.now()

    async def pass_once(self) -> float | None:
        """One pass over all jobs; asks for the next at the nearest deadline."""
        state = await load(self._kube)
        followed = [facts for job in state.jobs if (facts := await self._follow(job, state)) is not None]
        await self._wind_up_orphans(state)
        decided = await self._decide(followed, state)
        transactions = await self._transactions(decided)
        for facts in decided:
            await self._finish(facts, state, transactions)
        self._metrics.jobs(dict(Counter(job.status.state for job in state.jobs)))
        if self._must_wait(state, self._clock.now()):
            return 1.0
        return self._next_deadline(state)

    def _next_deadline(self, state: HubState) -> float | None:
        now = self._clock.now()
        ahead = [job.spec.deadline for job in state.jobs if job.spec.deadline is not None and job.spec.deadline > now]
        return max(0.2, (min(ahead) - now).total_seconds()) if ahead else None

    async def _follow(self, job: ComputeJob, state: HubState) -> JobFacts | None:
        """The job's facts after its open attempt was followed; None for one that is done with, or failed now."""
        if _is_done(job):
            return None
        try:
            usage = tuple(reversed(await self._ledger.history(job_uid=job.metadata.uid, limit=ALL_ATTEMPTS)))
            facts = JobFacts(job=job, usage=usage)
            newest = facts.newest
            if newest is None:
                return facts
            facts = replace(facts, lease=state.leases.get(newest.lease_name))
            if newest.is_open:
                facts = await self._keeper.follow(facts, newest)
                if facts.lease is not None:
                    state.leases[facts.lease.metadata.name] = facts.lease
            covers = [await self._ledger.coverage(entry.attempt.lease_name) for entry in usage]
            return replace(facts, coverage=tuple(covers))
        except (ConflictError, NotFoundError) as error:
            log.debug("job %s: %s; next pass", job.key, error)
        except InvalidResourceError as error:
            return JobFacts(job=job, invalid=error)
        except FedGPUError as error:
            log.warning("job %s: %s: %s", job.key, error.reason, error)
        return None

    async def _wind_up_orphans(self, state: HubState) -> None:
        known = {job.metadata.uid for job in state.jobs}
        for entry in await self._ledger.open_attempts():
            if entry.attempt.terms.job_uid not in known:
                try:
                    await self._keeper.wind_up(entry, state.leases.get(entry.attempt.lease_name))
                except ConflictError as error:
                    log.debug("attempt %s: %s; next pass", entry.attempt.lease_name, error)

    async def _decide(self, followed: list[JobFacts], state: HubState) -> list[JobFacts]:
        now = self._clock.now()
        waiting = [facts for facts in followed if phase(facts, now) in (Phase.PENDING, Phase.DRY_RUN)]
        if not waiting or self._must_wait(state, now):
            return followed
        laws, broken = policies_by_namespace(state, (facts.job.metadata.namespace for facts in waiting))
        asked: dict[str, Job] = {}
        errors: dict[str, InvalidResourceError] = {}
        for facts in waiting:
            namespace, uid = facts.job.metadata.namespace, facts.job.metadata.uid
            try:
                if namespace in broken:
                    raise broken[namespace]
                asked[uid] = domain_job(facts, state.accounts.get(namespace), now, self._cooldown)
            except InvalidResourceError as error:
                errors[uid] = error
        funds = funds_by_namespace(
            state,
            {job.namespace for job in asked.values()},
            await self._ledger.pair_totals(),
            await self._ledger.open_attempts(),
            settlement=self._settlement,
        )
        real = tuple(
            asked[f.job.metadata.uid] for f in waiting if not f.job.spec.dry_run and f.job.metadata.uid in asked
        )
        view = Snapshot(now, real, all_offers(state), laws, funds, self._default_deny)
        decisions = self._solve(view)
        for facts in waiting:
            uid = facts.job.metadata.uid
            if facts.job.spec.dry_run and uid in asked:
                decisions[uid] = evaluate(asked[uid], view)
        return [await self._apply(facts, decisions, errors, state) for facts in followed]

    def _must_wait(self, state: HubState, now: datetime) -> bool:
        """Whether some provider is about to report for the first time: deciding now could miss the best offer.

        A provider is waited for SETTLE after it was created and after this process began, no longer.
        """
        for provider in state.providers.values():
            since = max(self._began, provider.metadata.creation_timestamp or self._began)
            if awaits_report(provider) and now - since < SETTLE:
                return True
        return False

    def _solve(self, view: Snapshot) -> dict[str, Decision]:
        began = time.perf_counter()
        decisions = {decision.job_uid: decision for decision in decide(view)}
        seconds = time.perf_counter() - began
        refused = Counter(str(d.reason) for d in decisions.values() if d.chosen is None and d.reason is not None)
        placed = sum(1 for decision in decisions.values() if decision.chosen is not None)
        self._metrics.decided(placed, dict(refused), seconds)
        return decisions

    async def _apply(
        self,
        facts: JobFacts,
        decisions: dict[str, Decision],
        errors: dict[str, InvalidResourceError],
        state: HubState,
    ) -> JobFacts:
        uid = facts.job.metadata.uid
        if uid in errors:
            return replace(facts, invalid=errors[uid])
        decision = decisions.get(uid)
        if decision is None:
            return facts
        if decision.chosen is None or facts.job.spec.dry_run:
            return replace(facts, decision=decision)
        try:
            job = await self._hold(facts.job)
            facts = replace(facts, job=job)
            attempt, lease = await self._keeper.begin(facts, decision.chosen)
        except (ConflictError, NotFoundError) as error:
            log.debug("job %s: %s; next pass", facts.job.key, error)
            return facts
        except InvalidResourceError as error:
            return replace(facts, invalid=error)
        state.leases[lease.metadata.name] = lease
        usage = tuple(reversed(await self._ledger.history(job_uid=uid, limit=ALL_ATTEMPTS)))
        same = attempt.terms.provider == decision.chosen.provider and attempt.terms.price == decision.chosen.price
        log.info("job %s placed at %s", job.key, attempt.terms.provider)
        return replace(facts, usage=usage, lease=lease, decision=decision if same else None)

    async def _hold(self, job: ComputeJob) -> ComputeJob:
        """The guarded write on the job itself that every chain of writes begins with: our finalizer."""
        finalizers = sorted({*job.metadata.finalizers, FINALIZER})
        patch: JSONObject = {"metadata": {**guard(job.metadata), "finalizers": finalizers}}
        return ComputeJob.parse(await self._kube.patch(JOBS, job.metadata.name, job.metadata.namespace, patch))

    async def _transactions(self, decided: list[JobFacts]) -> dict[int, tuple[str, str]]:
        """(post, claim) transaction hashes by epoch, for the epochs that cover these jobs."""
        numbers = {cover.epoch for facts in decided for cover in facts.coverage if cover.epoch is not None}
        found = {}
        for number in sorted(numbers):
            by_kind = {tx.kind: tx.tx_hash for tx in await self._ledger.transactions(epoch=number)}
            found[number] = (by_kind.get("post", ""), by_kind.get("claim", ""))
        return found

    async def _finish(self, facts: JobFacts, state: HubState, transactions: dict[int, tuple[str, str]]) -> None:
        now = self._clock.now()
        job = facts.job
        try:
            if phase(facts, now) is Phase.DELETING and await self._release(facts, state):
                return
            status = job_status(facts, now, transactions)
            if await write_status(self._kube, job, job.status, status):
                await self._tell(job, status, now)
        except (ConflictError, NotFoundError) as error:
            log.debug("job %s: %s; next pass", job.key, error)
        except FedGPUError as error:
            log.warning("job %s: %s: %s", job.key, error.reason, error)

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
            patch: JSONObject = {"metadata": {**guard(job.metadata), "finalizers": kept}}
            await self._kube.patch(JOBS, job.metadata.name, job.metadata.namespace, patch)
        return True

    async def _tell(self, job: ComputeJob, status: ComputeJobStatus, now: datetime) -> None:
        for event in job_events(job.status, status):
            await emit(self._kube, job, event.type, event.reason, event.message, now=now)


def _is_done(job: ComputeJob) -> bool:
    """Whether nothing can happen to the job any more but deletion; it costs no look into the ledger."""
    return (
        job.metadata.deletion_timestamp is None
        and job.status.state in ("Succeeded", "Failed")
        and is_settled(job.status)
        and job.status.observed_generation == job.metadata.generation
    )


def _connected(provider: str, state: HubState) -> bool:
    known = state.providers.get(provider)
    return known is not None and known.status.state == "Ready"
