"""Decides for every waiting job of a pass, and dispatches what was placed: job first, then ledger, status, lease."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.weight import MOST_STORED, excess_of_job
from fedgpu_operator.domain.books import Attempt
from fedgpu_operator.domain.decision import Decision, Verdict
from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.domain.settlement import Pair
from fedgpu_operator.domain.vantage import Vantage
from fedgpu_operator.errors import InvalidResourceError, KubeError, TooLargeError
from fedgpu_operator.hub.attempts import JOBS, AttemptKeeper
from fedgpu_operator.hub.faults import FaultBook
from fedgpu_operator.hub.jobfacts import (
    SUPERSEDED,
    TOO_LARGE,
    WRITE_REFUSED,
    JobFacts,
    Phase,
    phase,
    resumes_at,
)
from fedgpu_operator.hub.jobwriter import JobWriter
from fedgpu_operator.hub.movable import freed_of
from fedgpu_operator.hub.notices import MOVE_ANNOTATION, decide_held, holds, waiting_jobs
from fedgpu_operator.hub.placing import all_offers, domain_job, funds_by_namespace, hosts_of, policies_by_namespace
from fedgpu_operator.hub.priorities import PriorityBook
from fedgpu_operator.hub.providers import awaits_report
from fedgpu_operator.hub.store import HubState
from fedgpu_operator.hub.write import emit, for_each, one_of_many
from fedgpu_operator.placement import BUILT_IN, Engine, Plugins, Snapshot
from fedgpu_operator.placement.problem import Solution
from fedgpu_operator.ports import Clock, Kube, Ledger, Metrics, read_back

log = logging.getLogger(__name__)

FINALIZER = "fedgpu.dev/lease"
MOST_AT_ONCE = 128
"""Jobs that one pass dispatches; at 60 jobs a second that is two seconds."""
REFUSALS: Final = frozenset({400, 403, 413, 422})
"""Answers to a write that will be the same the next time."""
RETRY_SECONDS = 30
"""A job that found no place is judged anew at least so often: deadlines, cool-downs and measurements go by time."""
SETTLE = timedelta(seconds=10)
"""How long placement waits for a new provider's first report; members answered within 1 s in the lab."""


@dataclass(frozen=True, slots=True)
class Placed:
    """What a pass placed, what is left to be written, and whether more could be placed at once."""

    dispatched: list[JobFacts]
    others: list[JobFacts]
    later: bool = False


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
        faults: FaultBook,
        forget: Callable[[str], None],
        plugins: Plugins = BUILT_IN,
        vantages: tuple[Vantage, ...] = (),
    ) -> None:
        self._vantages = vantages
        self._engine = Engine(plugins)
        self._offered: tuple[object, tuple[Offer, ...]] = (None, ())
        self._forget = forget
        self._kube = kube
        self._ledger = ledger
        self._clock = clock
        self._metrics = metrics
        self._keeper = keeper
        self._writer = writer
        self._default_deny = default_deny
        self._cooldown = cooldown
        self._faults = faults
        self._priorities = PriorityBook(kube, clock)
        self._began = clock.now()
        self._refused: dict[str, str] = {}

    def must_wait(self, state: HubState, now: datetime) -> bool:
        """Whether some provider is about to report for the first time: deciding now could miss the best offer.

        A provider is waited for SETTLE after it was created and after this process began, no longer.
        """
        for provider in state.providers.values():
            since = max(self._began, provider.metadata.creation_timestamp or self._began)
            if awaits_report(provider) and now - since < SETTLE:
                return True
        return False

    async def world(self, state: HubState) -> object:
        """Equal as long as a job that found no place would find none now: what placement looks at beside the jobs.

        Where money is counted it moves all the time, and nothing is equal.
        """
        if state.wallets is not None or self.must_wait(state, self._clock.now()):
            return object()
        half_minute = int(self._clock.now().timestamp()) // RETRY_SECONDS
        law = state.policies, state.unreadable_policies, state.namespaces
        caps = {namespace: account.spec.max_per_job for namespace, account in state.accounts.items()}
        return half_minute, self._offers(state), law, caps, await self._priorities.look()

    async def place(self, followed: list[JobFacts], state: HubState) -> Placed:
        """Decide for those that wait; what was placed has its lease and its status."""
        now = self._clock.now()
        waiting = [facts for facts in followed if _is_due(facts, now)]
        if not waiting or self.must_wait(state, now):
            return Placed([], followed)
        view, errors = await self.view(waiting, state, now)
        # Pure and, for a long queue, seconds long: probes and agents go on meanwhile.
        decisions = await asyncio.to_thread(self._solve, view, waiting, state)
        priorities = {job.uid: job.priority for job in view.jobs}
        chosen: list[JobFacts] = []
        others: list[JobFacts] = []
        for facts in followed:
            uid = facts.job.metadata.uid
            facts = replace(
                facts,
                invalid=errors.get(uid, facts.invalid),
                decision=decisions.get(uid),
                priority=priorities.get(uid),
            )
            (chosen if _goes(facts) else others).append(facts)
        # A pass that took all of a long queue would keep what must stop waiting for its end.
        now_on, later = chosen[:MOST_AT_ONCE], len(chosen) > MOST_AT_ONCE
        done = await for_each(lambda facts: self._dispatch_apart(facts, state), now_on)
        placed = [each for each in done if each is not None and each.invalid is None]
        others += [each for each in done if each is not None and each.invalid is not None]
        return Placed(placed, others, later)

    async def _dispatch_apart(self, facts: JobFacts, state: HubState) -> JobFacts | None:
        placed: list[JobFacts] = []
        with one_of_many(facts.job):
            placed.append(await self._dispatch(facts, state))
        if not placed:
            self._forget(facts.job.metadata.uid)
        return placed[0] if placed else None

    def _offers(self, state: HubState) -> tuple[Offer, ...]:
        """What is for sale; reckoned once as long as no lease is taken."""
        if self._offered[0] is not state.running:
            self._offered = (state.running, all_offers(state))
        return self._offered[1]

    async def view(
        self, waiting: list[JobFacts], state: HubState, now: datetime
    ) -> tuple[Snapshot, dict[str, InvalidResourceError]]:
        """These jobs and all that is decided on about them; those that cannot be read, with why, by uid."""
        laws, broken = policies_by_namespace(state, (facts.job.metadata.namespace for facts in waiting))
        asked: list[Job] = []
        errors: dict[str, InvalidResourceError] = {}
        hosts, priorities = hosts_of(state.providers), await self._priorities.look()
        for facts in waiting:
            namespace = facts.job.metadata.namespace
            try:
                if namespace in broken:
                    raise broken[namespace]
                account = state.accounts.get(namespace)
                cooling = self._faults.cooling(namespace, now)
                job = domain_job(
                    facts, account, now, self._cooldown, hosts=hosts, vantages=self._vantages, cooling=cooling
                )
                priority = priorities.of(facts.job)
                asked.append(replace(job, priority=priority.value, preempts=priority.preempts))
            except InvalidResourceError as error:
                errors[facts.job.metadata.uid] = error
        paid = state.wallets is not None
        funds = funds_by_namespace(
            state,
            {job.namespace for job in asked},
            await self._ledger.pair_totals() if paid else (),
            await self._ledger.open_attempts() if paid else (),
        )
        return Snapshot(now, tuple(asked), self._offers(state), laws, funds, self._default_deny), errors

    def _solve(self, view: Snapshot, waiting: list[JobFacts], state: HubState) -> dict[str, Decision]:
        """Decisions by job uid; a dry run is judged alone and takes nothing from the others."""
        dry = {facts.job.metadata.uid for facts in waiting if facts.job.spec.dry_run}
        began = time.perf_counter()
        real = replace(view, jobs=tuple(job for job in view.jobs if job.uid not in dry))
        decisions = {decision.job_uid: decision for decision in self._decide(real, state)}
        seconds = time.perf_counter() - began
        refused = {uid: str(d.reason) for uid, d in decisions.items() if d.chosen is None and d.reason is not None}
        # A job that waits is judged in each pass: it counts once, and once more with each new reason.
        new = Counter(reason for uid, reason in refused.items() if self._refused.get(uid) != reason)
        self._refused = refused
        placed = sum(1 for decision in decisions.values() if decision.chosen is not None)
        self._metrics.decided(placed, dict(new), seconds)
        return decisions | {job.uid: self._engine.evaluate(job, view) for job in view.jobs if job.uid in dry}

    def _decide(self, view: Snapshot, state: HubState) -> Sequence[Decision]:
        """Capacity that announced moves hold goes to those whom it is held for."""
        solutions: list[Solution] = []

        def decided(part: Snapshot) -> Sequence[Decision]:
            outcome = self._engine.decide(part)
            solutions.append(outcome.solution)
            for failure in outcome.failures:
                log.warning("placement: %s; what it does not allow is refused", failure.message)
            return outcome.decisions

        told = [lease for lease in state.leases.values() if MOVE_ANNOTATION in lease.metadata.annotations]
        known = {job.uid: job for job in view.jobs}
        held = holds(told, waiting_jobs(state), known, view.now) if told else ()
        decisions = decide_held(view, held, freed_of(state), decided) if held else decided(view)
        # A pass is as good as the worst of its parts.
        if solutions:
            self._metrics.solved(max(solutions, key=lambda each: (each.gap, not each.certified, each.rounds)))
        return decisions

    async def _dispatch(self, facts: JobFacts, state: HubState) -> JobFacts:
        """From a decision to a lease. The status goes out first: it freezes the job's spec to what was decided on."""
        decision = facts.decision
        if decision is None or decision.chosen is None:
            return facts
        chosen = decision.chosen
        try:
            held = await self._hold(facts.job)
            facts = replace(facts, job=read_back(self._kube, ComputeJob, held))
            _must_fit(held)
            facts, attempt = await self._keeper.begin(facts, chosen, self._wallets(facts.job, chosen, state))
        except InvalidResourceError as error:
            return replace(facts, decision=None, invalid=error)
        try:
            facts = await self._writer.write(facts, {})
            lease = await self._keeper.start(facts.job, attempt)
        except KubeError as error:
            await self._not_started(facts.job, attempt, error)
            raise
        state.took(lease)
        log.info("job %s placed at %s", facts.job.key, attempt.terms.provider)
        return replace(facts, lease=lease)

    async def _not_started(self, job: ComputeJob, attempt: Attempt, error: KubeError) -> None:
        """Close an attempt whose status or lease the API server did not take.

        Only an answer proves that there is no lease. Without one the attempt stays open, and the next pass looks. What
        the server refuses because of what was sent counts against the job, not that it has no time or no such object.
        """
        if error.undone:
            refused = error.status in REFUSALS
            await self._keeper.close(attempt, WRITE_REFUSED if refused else SUPERSEDED)
            if not refused:
                return
            text = f"attempt {attempt.attempt} at {attempt.terms.provider} was not started: {error}"
            await emit(self._kube, job, "Warning", WRITE_REFUSED, text, now=self._clock.now())

    async def _hold(self, job: ComputeJob) -> JSONObject:
        """The guarded write on the job itself that every chain of writes begins with: our finalizer.

        The answer is the whole object as it is stored. Raises InvalidResourceError (`TooLarge`) where it has no room.
        """
        finalizers = sorted({*job.metadata.finalizers, FINALIZER})
        patch: JSONObject = {"metadata": {**job.metadata.guard(), "finalizers": finalizers}}
        try:
            return await self._kube.patch(JOBS, job.metadata.name, job.metadata.namespace, patch)
        except TooLargeError as error:
            raise InvalidResourceError(TOO_LARGE, _too_large("no finalizer can be added to the job")) from error

    def _wallets(self, job: ComputeJob, chosen: Verdict, state: HubState) -> Pair:
        """(tenant wallet, provider wallet) that this attempt is settled between; empty without settlement."""
        if state.wallets is None:
            return "", ""
        known = state.wallets
        return known.tenants.get(job.metadata.namespace, ""), known.payouts.get(chosen.provider, "")


def _is_due(facts: JobFacts, now: datetime) -> bool:
    """Whether the job is to be decided on now; one whose last attempts were refused waits ever longer."""
    if phase(facts, now) not in (Phase.PENDING, Phase.DRY_RUN):
        return False
    resumes = resumes_at(facts)
    return resumes is None or resumes <= now


def _must_fit(job: JSONObject) -> None:
    """Raises InvalidResourceError (`TooLarge`) for a job that would have no room for its later status."""
    if excess := excess_of_job(job):
        raise InvalidResourceError(TOO_LARGE, _too_large(f"the job is {excess} bytes too large"))


def _too_large(what: str) -> str:
    return (
        f"{what}: its status, and what others add, must fit beside it into the {MOST_STORED} bytes of one object in "
        "etcd; shorten spec.template, or remove annotations and labels, then it is placed"
    )


def _goes(facts: JobFacts) -> bool:
    """Whether this pass found a place for the job, and it is meant in earnest."""
    return facts.decision is not None and facts.decision.chosen is not None and not facts.job.spec.dry_run
