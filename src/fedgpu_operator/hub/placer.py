"""Decides for every waiting job of a pass, and dispatches what was placed: job first, then ledger, status, lease."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.domain.decision import Decision, Verdict
from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.settlement import Pair
from fedgpu_operator.errors import ConflictError, InvalidResourceError
from fedgpu_operator.hub.attempts import JOBS, AttemptKeeper
from fedgpu_operator.hub.jobfacts import SUPERSEDED, JobFacts, Phase, phase
from fedgpu_operator.hub.jobwriter import JobWriter
from fedgpu_operator.hub.placing import all_offers, domain_job, funds_by_namespace, policies_by_namespace
from fedgpu_operator.hub.providers import awaits_report
from fedgpu_operator.hub.store import HubState
from fedgpu_operator.hub.write import one_of_many
from fedgpu_operator.placement import Snapshot, decide, evaluate
from fedgpu_operator.ports import Clock, Kube, Ledger, Metrics

log = logging.getLogger(__name__)

FINALIZER = "fedgpu.dev/lease"
SETTLE = timedelta(seconds=10)
"""How long placement waits for a new provider's first report; members answered within 1 s in the lab."""


class JobPlacer:
    """One decision for all jobs that wait, so that nothing is sold twice."""

    def __init__(
        self,
        kube: Kube,
        ledger: Ledger,
        clock: Clock,
        metrics: Metrics,
        keeper: AttemptKeeper,
        writer: JobWriter,
        *,
        default_deny: bool,
        cooldown: timedelta,
    ) -> None:
        self._kube = kube
        self._ledger = ledger
        self._clock = clock
        self._metrics = metrics
        self._keeper = keeper
        self._writer = writer
        self._default_deny = default_deny
        self._cooldown = cooldown
        self._began = clock.now()

    def must_wait(self, state: HubState, now: datetime) -> bool:
        """Whether some provider is about to report for the first time: deciding now could miss the best offer.

        A provider is waited for SETTLE after it was created and after this process began, no longer.
        """
        for provider in state.providers.values():
            since = max(self._began, provider.metadata.creation_timestamp or self._began)
            if awaits_report(provider) and now - since < SETTLE:
                return True
        return False

    async def place(self, followed: list[JobFacts], state: HubState) -> list[JobFacts]:
        """The facts of all jobs with this pass's decisions in those that wait; what was placed has its lease."""
        now = self._clock.now()
        waiting = [facts for facts in followed if phase(facts, now) in (Phase.PENDING, Phase.DRY_RUN)]
        if not waiting or self.must_wait(state, now):
            return followed
        view, errors = await self._view(waiting, state, now)
        decisions = self._solve(view, waiting)
        placed = []
        for facts in followed:
            uid = facts.job.metadata.uid
            if uid in errors:
                facts = replace(facts, invalid=errors[uid])
            elif uid in decisions:
                facts = replace(facts, decision=decisions[uid])
                with one_of_many(facts.job):
                    facts = await self._dispatch(facts, state)
            placed.append(facts)
        return placed

    async def _view(
        self, waiting: list[JobFacts], state: HubState, now: datetime
    ) -> tuple[Snapshot, dict[str, InvalidResourceError]]:
        laws, broken = policies_by_namespace(state, (facts.job.metadata.namespace for facts in waiting))
        asked: list[Job] = []
        errors: dict[str, InvalidResourceError] = {}
        for facts in waiting:
            namespace = facts.job.metadata.namespace
            try:
                if namespace in broken:
                    raise broken[namespace]
                asked.append(domain_job(facts, state.accounts.get(namespace), now, self._cooldown))
            except InvalidResourceError as error:
                errors[facts.job.metadata.uid] = error
        funds = funds_by_namespace(
            state,
            {job.namespace for job in asked},
            await self._ledger.pair_totals(),
            await self._ledger.open_attempts(),
        )
        return Snapshot(now, tuple(asked), all_offers(state), laws, funds, self._default_deny), errors

    def _solve(self, view: Snapshot, waiting: list[JobFacts]) -> dict[str, Decision]:
        """Decisions by job uid; a dry run is judged alone and takes nothing from the others."""
        dry = {facts.job.metadata.uid for facts in waiting if facts.job.spec.dry_run}
        began = time.perf_counter()
        real = replace(view, jobs=tuple(job for job in view.jobs if job.uid not in dry))
        decisions = {decision.job_uid: decision for decision in decide(real)}
        seconds = time.perf_counter() - began
        refused = Counter(str(d.reason) for d in decisions.values() if d.chosen is None and d.reason is not None)
        placed = sum(1 for decision in decisions.values() if decision.chosen is not None)
        self._metrics.decided(placed, dict(refused), seconds)
        return decisions | {job.uid: evaluate(job, view) for job in view.jobs if job.uid in dry}

    async def _dispatch(self, facts: JobFacts, state: HubState) -> JobFacts:
        """From a decision to a lease. The status goes out first: it freezes the job's spec to what was decided on."""
        decision = facts.decision
        if decision is None or decision.chosen is None or facts.job.spec.dry_run:
            return facts
        chosen = decision.chosen
        try:
            facts = replace(facts, job=await self._hold(facts.job))
            attempt = await self._keeper.begin(facts, chosen, self._wallets(facts.job, chosen, state))
        except InvalidResourceError as error:
            return replace(facts, decision=None, invalid=error)
        same = (attempt.terms.provider, attempt.terms.price) == (chosen.provider, chosen.price)
        usage = await self._keeper.usage(facts.job.metadata.uid)
        facts = replace(facts, usage=usage, decision=decision if same else None)
        try:
            facts = await self._writer.write(facts, {})
        except ConflictError:
            await self._keeper.close(attempt, SUPERSEDED)
            raise
        lease = await self._keeper.dispatch(facts.job, attempt)
        state.leases[lease.metadata.name] = lease
        log.info("job %s placed at %s", facts.job.key, attempt.terms.provider)
        return replace(facts, lease=lease)

    async def _hold(self, job: ComputeJob) -> ComputeJob:
        """The guarded write on the job itself that every chain of writes begins with: our finalizer."""
        finalizers = sorted({*job.metadata.finalizers, FINALIZER})
        patch: JSONObject = {"metadata": {**job.metadata.guard(), "finalizers": finalizers}}
        return ComputeJob.parse(await self._kube.patch(JOBS, job.metadata.name, job.metadata.namespace, patch))

    def _wallets(self, job: ComputeJob, chosen: Verdict, state: HubState) -> Pair:
        """(tenant wallet, provider wallet) that this attempt is settled between; empty without settlement."""
        if state.wallets is None:
            return "", ""
        known = state.wallets
        return known.tenants.get(job.metadata.namespace, ""), known.payouts.get(chosen.provider, "")
