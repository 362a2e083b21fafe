"""Decides for every waiting job of a pass, and dispatches what was placed: job first, then ledger, status, lease."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from zlib import crc32

from fedgpu_operator.api.base import MOST_STORED, JSONObject, excess_of_job
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.attempts import Attempt
from fedgpu_operator.domain.decision import Decision, Verdict
from fedgpu_operator.domain.job import Job, Policy
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import Histogram, Offer
from fedgpu_operator.domain.settlement import Pair
from fedgpu_operator.errors import InvalidResourceError, KubeError, TooLargeError
from fedgpu_operator.hub.services.attempts import AttemptKeeper
from fedgpu_operator.hub.services.changes import ChangeDetector, same_objects
from fedgpu_operator.hub.services.holds import Hold, decide_held, holds, waiting_jobs
from fedgpu_operator.hub.services.hubstate import HubState
from fedgpu_operator.hub.services.moves import freed_of
from fedgpu_operator.hub.services.snapshot import (
    Awaiting,
    Frame,
    JobReader,
    Newcomers,
    OfferBook,
    PendingJob,
    charged,
    funds_by_namespace,
    imagined,
)
from fedgpu_operator.hub.services.solvency import ObligationBook, Obligations
from fedgpu_operator.hub.services.writes import JobWriter, for_each, one_of_many
from fedgpu_operator.hub.views.jobfacts import SUPERSEDED, WRITE_REFUSED, JobFacts, Phase, phase, resumes_at
from fedgpu_operator.hub.views.jobs import MAX_CANDIDATES
from fedgpu_operator.logs import bound
from fedgpu_operator.placement import Engine, Plugins, Snapshot
from fedgpu_operator.placement.problem import Solution
from fedgpu_operator.ports import Clock, Kube, Metrics, read_back

log = logging.getLogger(__name__)


MOST_AT_ONCE = 128
"""Jobs that one pass dispatches; at 60 jobs a second that is two seconds."""
TURNS: Final = 6
"""Parts of the jobs that wait, by their UID. In each half minute every part has its turn, in which what is shown beside
the reason is brought up to date; all at the same time would be the dearest pass of a long queue by far."""
TURN_SECONDS: Final = 5
REFUSALS: Final = frozenset({400, 403, 413, 422})
"""Answers to a write that will be the same the next time."""


@dataclass(frozen=True, slots=True)
class Placed:
    """What a pass placed, what is left to be written, and whether more could be placed at once.

    `waiting` are jobs at rest of which nothing has to be written; `anew` is whether this pass decided, so that all jobs
    that found no place are among `others` and `waiting` with their decisions. `failed` is whether some job that a place
    was found for has none, because it could not be started or an object could not be written.
    """

    dispatched: list[JobFacts]
    others: list[JobFacts]
    waiting: list[JobFacts]
    later: bool = False
    anew: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Basis:
    """All that a solve rests on: as long as it is equal, the decisions are those of the last one.

    `jobs` and `offers` are compared as objects, which their makers keep as long as they are equal. `tick` counts half
    minutes if something in it goes by time alone, and is None else. `dry` are the uids of the dry runs among the jobs,
    `hoped` the providers of `awaited`, whose limits say what is hoped for. `held` is the
    capacity that announced moves hold, `room` what is free at each hold's offer once the leases before it are gone.
    """

    tick: int | None
    jobs: Mapping[str, Job]
    offers: tuple[Offer, ...]
    laws: Mapping[str, tuple[Policy, ...]]
    funds: Mapping[str, MicroUSD | None]
    dry: frozenset[str]
    held: tuple[Hold, ...]
    room: tuple[Histogram, ...]
    awaited: Awaiting
    hoped: tuple[GPUProvider, ...]

    def holds(self, last: Basis | None) -> bool:
        """Whether a solve on the last basis says what one on this basis would say."""
        return (
            last is not None
            and self.tick == last.tick
            and self.offers is last.offers
            and len(self.jobs) == len(last.jobs)
            and all(last.jobs.get(uid) is job for uid, job in self.jobs.items())
            and self.funds == last.funds
            and self.laws == last.laws
            and self.dry == last.dry
            and (self.held, self.room) == (last.held, last.room)
            and self.awaited == last.awaited
            and same_objects(self.hoped, last.hoped)
        )


@dataclass(frozen=True, slots=True)
class Unfit:
    """A job that was refused at its dispatch, with what its owner may change of it to have it tried again."""

    generation: int
    annotations: Mapping[str, str]
    labels: Mapping[str, str]
    error: InvalidResourceError

    @classmethod
    def of(cls, job: ComputeJob, error: InvalidResourceError) -> Unfit:
        return cls(job.metadata.generation, job.metadata.annotations, job.metadata.labels, error)

    def is_of(self, job: ComputeJob) -> bool:
        """Whether nothing of that job has changed since."""
        return self == Unfit.of(job, self.error)


Gist = tuple[str | None, str, str, int]
"""The reason for which a job waits, or where a dry run would go: provider, product and price."""
Words = tuple[Gist, str, tuple[str, ...], tuple[Verdict, ...]]
"""What the status of a job that waits shows of its decision: its gist, message, policies, and the best candidates."""


class JobPlacer:
    """One decision for all jobs that wait, so that nothing is sold twice.

    All of them are decided together whenever something that a decision rests on changed, and none of them otherwise.
    What the placer remembers (the jobs and offers as placement sees them, the last answer, and what was shown of it)
    spares work; a fresh placer decides the same.
    """

    def __init__(
        self,
        kube: Kube,
        clock: Clock,
        metrics: Metrics,
        keeper: AttemptKeeper,
        writer: JobWriter,
        reader: JobReader,
        owed: ObligationBook,
        *,
        default_deny: bool,
        forget: Callable[[str], None],
        plugins: Plugins,
    ) -> None:
        self._engine = Engine(plugins)
        self._foreign = bool(plugins.foreign)
        self._reader = reader
        self._stock = OfferBook()
        self._owed = owed
        self._forget = forget
        self._kube = kube
        self._clock = clock
        self._metrics = metrics
        self._keeper = keeper
        self._writer = writer
        self._default_deny = default_deny
        self._newcomers = Newcomers(clock.now())
        self._refused: dict[str, str] = {}
        self._leases = ChangeDetector()
        self._told: tuple[ComputeLease, ...] = ()
        self._basis: Basis | None = None
        self._decisions: dict[str, Decision] = {}
        self._priority: dict[str, int] = {}
        self._shown: dict[str, Words] = {}
        self._turn = -TURNS
        """The newest one that was taken, counted from 1970."""
        self._stale: set[int] = set()
        """Turns of which a decision was made, and only its reason compared with what is shown."""
        self._unfit: dict[str, Unfit] = {}
        self._unfit_at = -1

    def must_wait(self, state: HubState, now: datetime) -> bool:
        """Whether some provider is about to report for the first time, so that moves are not thought of yet."""
        return bool(self._newcomers.awaited(state, now))

    async def place(self, followed: list[JobFacts], resting: Sequence[JobFacts], state: HubState) -> Placed:
        """Decide for those that wait; what was placed has its lease and its status.

        `followed` are the jobs that this pass looks at, `resting` all others that wait, as they were remembered.
        """
        now = self._clock.now()
        asking = [facts for facts in followed if _is_due(facts, now)]
        asking += [facts for facts in resting if not facts.usage or _is_due(replace(facts, invalid=None), now)]
        if not asking:
            self._basis = None
            return Placed([], followed, list(resting))
        frame = await self._reader.frame(state, (facts.job.metadata.namespace for facts in asking), now)
        asked = self._ask(asking, frame, state)
        basis = await self._based(asked, frame, state, now)
        anew = not basis.holds(self._basis)
        if anew:
            # Kept only once all of it is done: a solve that fails must not look like one that placed nobody.
            self._basis = None
            # Pure and, for a long queue, seconds long: probes and agents go on meanwhile.
            view = self._view(basis, now)
            self._decisions = await asyncio.to_thread(self._solve, view, basis.dry, state, basis.awaited)
            self._priority = {uid: job.priority for uid, job in basis.jobs.items()}
        placed = await self._carry_out(followed, resting, asked, state, anew=anew, due=self._due_turns(now))
        if placed.later or placed.failed:
            # What was decided for those that got no lease is still to be given: to them, or to others.
            self._basis = None
        elif anew:
            self._basis = basis
        return placed

    def _ask(self, asking: Iterable[JobFacts], frame: Frame, state: HubState) -> dict[str, PendingJob]:
        """The jobs as placement sees them, by uid.

        One that could not be started as it is (its workload is refused, or too large) is tried again each half minute,
        and when what it is read against changes. What was refused at its dispatch waits as long, or until it changes:
        meanwhile others have its place.
        """
        if frame.tick != self._unfit_at:
            self._unfit_at, self._unfit = frame.tick, {}
        found = {}
        for facts in asking:
            uid = facts.job.metadata.uid
            known = self._reader.known(uid)
            each = self._reader.read(facts, frame, state)
            unfit = self._unfit.get(uid)
            if unfit is not None and unfit.is_of(facts.job):
                found[uid] = replace(each, job=None, error=unfit.error)
            elif facts.invalid is None or each.error is not None or each is not known:
                found[uid] = each
        return found

    async def _based(self, asked: Mapping[str, PendingJob], frame: Frame, state: HubState, now: datetime) -> Basis:
        jobs = {uid: each.job for uid, each in asked.items() if each.job is not None}
        spaces = {job.namespace for job in jobs.values()}
        dry = frozenset(uid for uid in jobs if asked[uid].facts.job.spec.dry_run)
        awaited = self._newcomers.awaited(state, now)
        owed = await self._owed.look() if state.wallets is not None else Obligations()
        if self._leases.changed(state.leases.values()):
            self._told = tuple(each for each in state.leases.values() if each.spec.move is not None)
        held = self._held(jobs, state, now)
        freed = freed_of(state) if held else None
        return Basis(
            frame.tick if self._foreign or self._told or any(map(_goes_by_time, jobs.values())) else None,
            jobs,
            self._stock.look(state),
            {namespace: frame.laws.get(namespace, ()) for namespace in spaces},
            funds_by_namespace(state, spaces, owed),
            dry,
            held,
            tuple(freed(hold.offer, hold.after) for hold in held if hold.after) if freed is not None else (),
            awaited,
            tuple(state.providers[name] for name in sorted(awaited)),
        )

    def _view(self, basis: Basis, now: datetime) -> Snapshot:
        return Snapshot(now, tuple(basis.jobs.values()), basis.offers, basis.laws, basis.funds, self._default_deny)

    async def _carry_out(
        self,
        followed: Iterable[JobFacts],
        resting: Iterable[JobFacts],
        asked: Mapping[str, PendingJob],
        state: HubState,
        *,
        anew: bool,
        due: frozenset[int],
    ) -> Placed:
        """Dispatch whom a place was found for; the others apart by whether something of them is to be written."""
        if anew:
            self._stale.update(range(TURNS))
        chosen, others, waiting = self._sort_out(followed, resting, asked, anew=anew, due=due)
        # A pass that took all of a long queue would keep what must stop waiting for its end.
        now_on, later = chosen[:MOST_AT_ONCE], len(chosen) > MOST_AT_ONCE
        done = await for_each(lambda facts: self._dispatch_apart(facts, state), now_on)
        placed = [each for each in done if each is not None and each.invalid is None]
        refused = [each for each in done if each is not None and each.invalid is not None]
        others += refused
        for each in refused:
            if each.invalid is not None:
                self._unfit[each.job.metadata.uid] = Unfit.of(each.job, each.invalid)
        self._stale -= due
        if 0 in due:
            self._reader.only(asked)
            self._shown = {uid: self._shown[uid] for uid in asked if uid in self._shown}
        # A job that was refused is not asked about again for a while: its place goes to another at once.
        return Placed(placed, others, waiting, later or bool(refused), anew, len(placed) < len(now_on))

    def _sort_out(
        self,
        followed: Iterable[JobFacts],
        resting: Iterable[JobFacts],
        asked: Mapping[str, PendingJob],
        *,
        anew: bool,
        due: frozenset[int],
    ) -> tuple[list[JobFacts], list[JobFacts], list[JobFacts]]:
        """Who has a place to go to, of whom something else is to be written, and who waits on unchanged."""
        chosen: list[JobFacts] = []
        others: list[JobFacts] = []
        waiting: list[JobFacts] = []
        for facts in followed:
            facts = self._answered(facts, asked)
            self._note(facts)
            (chosen if _goes(facts) else others).append(facts)
        for facts in resting:
            uid = facts.job.metadata.uid
            turn = _turn_of(uid)
            thorough = turn in due
            look = anew or (thorough and turn in self._stale)
            if not look and (uid not in asked or asked[uid].error is facts.invalid):
                waiting.append(facts)
                continue
            if not thorough and self._says_the_same(facts):
                waiting.append(facts)
                continue
            now = self._answered(facts, asked)
            if _goes(now):
                chosen.append(now)
            elif self._is_news(facts, now, thorough=thorough):
                self._note(now)
                others.append(now)
            else:
                waiting.append(facts if _is_known(facts, now) else now)
        return chosen, others, waiting

    def _due_turns(self, now: datetime) -> frozenset[int]:
        """The turns whose time has come since the last pass."""
        last, self._turn = self._turn, int(now.timestamp() // TURN_SECONDS)
        passed = range(last + 1, self._turn + 1) if last <= self._turn < last + TURNS else range(TURNS)
        return frozenset(number % TURNS for number in passed)

    def _says_the_same(self, facts: JobFacts) -> bool:
        """Whether a job at rest goes nowhere, for the reason that is shown."""
        uid = facts.job.metadata.uid
        decision, shown = self._decisions.get(uid), self._shown.get(uid)
        if decision is None or shown is None or facts.invalid is not None:
            return False
        return (decision.chosen is None or facts.job.spec.dry_run) and _gist(decision) == shown[0]

    def _answered(self, facts: JobFacts, asked: Mapping[str, PendingJob]) -> JobFacts:
        """The facts with what this pass says of the job; one that was not asked about stays as it is."""
        uid = facts.job.metadata.uid
        each = asked.get(uid)
        if each is None:
            return facts
        return replace(facts, invalid=each.error, decision=self._decisions.get(uid), priority=self._priority.get(uid))

    def _is_news(self, before: JobFacts, now: JobFacts, *, thorough: bool) -> bool:
        """Whether the status of a job at rest has to be written: its reason is another one, or it is time to look.

        The words beside the reason, with the candidates, change with every offer: they are brought up to date each half
        minute, a part of the jobs at a time, or each lease that ends would have every waiting job's status written.
        """
        if str(before.invalid or "") != str(now.invalid or ""):
            return True
        if now.decision is None:
            return False
        shown = self._shown.get(now.job.metadata.uid)
        if shown is None or shown[0] != _gist(now.decision):
            return True
        return thorough and shown != _words(now.decision)

    def _note(self, facts: JobFacts) -> None:
        """Remember what is shown of a decision from now on."""
        if facts.decision is not None and not _goes(facts):
            self._shown[facts.job.metadata.uid] = _words(facts.decision)

    async def _dispatch_apart(self, facts: JobFacts, state: HubState) -> JobFacts | None:
        placed: list[JobFacts] = []
        with one_of_many(facts.job):
            placed.append(await self._dispatch(facts, state))
        if not placed:
            self._forget(facts.job.metadata.uid)
        return placed[0] if placed else None

    async def view(
        self, asking: list[JobFacts], state: HubState, now: datetime
    ) -> tuple[Snapshot, dict[str, InvalidResourceError]]:
        """These jobs and all that is decided on about them; those that cannot be read, with why, by uid."""
        frame = await self._reader.frame(state, (facts.job.metadata.namespace for facts in asking), now)
        asked = {facts.job.metadata.uid: self._reader.read(facts, frame, state) for facts in asking}
        basis = await self._based(asked, frame, state, now)
        return self._view(basis, now), {uid: each.error for uid, each in asked.items() if each.error is not None}

    def _solve(self, view: Snapshot, dry: Collection[str], state: HubState, awaited: Awaiting) -> dict[str, Decision]:
        """Decisions by job uid; a dry run is judged alone and takes nothing from the others.

        A job that would do better at a provider which is about to report has no decision yet.
        """
        began = time.perf_counter()
        real = replace(view, jobs=tuple(job for job in view.jobs if job.uid not in dry))
        trial = [job for job in view.jobs if job.uid in dry]
        if awaited:
            hoped = replace(view, offers=imagined(view.offers, state, awaited))
            later = [each for each in self._decide(replace(hoped, jobs=real.jobs), state) if _goes_to(each, awaited)]
            trial = [job for job in trial if not _goes_to(self._engine.evaluate(job, hoped), awaited)]
            real = charged(real, later)
        decisions = {decision.job_uid: decision for decision in self._decide(real, state)}
        seconds = time.perf_counter() - began
        refused = {uid: str(d.reason) for uid, d in decisions.items() if d.chosen is None and d.reason is not None}
        # A job that waits is judged in each pass: it counts once, and once more with each new reason.
        new = Counter(reason for uid, reason in refused.items() if self._refused.get(uid) != reason)
        self._refused = refused
        placed = sum(1 for decision in decisions.values() if decision.chosen is not None)
        self._metrics.decided(placed, dict(new), seconds)
        return decisions | {job.uid: self._engine.evaluate(job, view) for job in trial}

    def _decide(self, view: Snapshot, state: HubState) -> Sequence[Decision]:
        """Capacity that announced moves hold goes to those whom it is held for."""
        solutions: list[Solution] = []

        def decided(part: Snapshot) -> Sequence[Decision]:
            outcome = self._engine.decide(part)
            solutions.append(outcome.solution)
            for failure in outcome.failures:
                log.warning("placement: %s; what it does not allow is refused", failure.message)
            return outcome.decisions

        held = self._held({job.uid: job for job in view.jobs}, state, view.now)
        decisions = decide_held(view, held, freed_of(state), decided) if held else decided(view)
        # A pass is as good as the worst of its parts.
        if solutions:
            self._metrics.solved(max(solutions, key=lambda each: (each.gap, not each.certified, each.rounds)))
        return decisions

    def _held(self, known: Mapping[str, Job], state: HubState, now: datetime) -> tuple[Hold, ...]:
        """The capacity that announced moves hold now; `known` are the jobs that are decided on."""
        return holds(self._told, waiting_jobs(state), known, now) if self._told else ()

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
            devices = state.request_of(chosen.provider, chosen.product)
            wallets = self._wallets(facts.job, chosen, state)
            facts, attempt = await self._keeper.begin(facts, chosen, wallets, devices)
        except InvalidResourceError as error:
            return replace(facts, decision=None, invalid=error)
        try:
            facts = await self._writer.write(facts, {})
            lease = await self._keeper.start(facts.job, attempt, devices)
        except KubeError as error:
            await self._not_started(facts.job, attempt, error)
            raise
        state.took(lease)
        since = facts.attempts[-2].ended_at if len(facts.attempts) > 1 else facts.job.metadata.creation_timestamp
        waited = (self._clock.now() - since).total_seconds() if since is not None else 0.0
        self._metrics.admitted(facts.job.metadata.namespace, max(0.0, waited))
        with bound(lease=attempt.lease_name, provider=attempt.terms.provider):
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
            await self._writer.event(job, "Warning", WRITE_REFUSED, text)

    async def _hold(self, job: ComputeJob) -> JSONObject:
        """The guarded write on the job itself that every chain of writes begins with: our finalizer.

        The answer is the whole object as it is stored. Raises InvalidResourceError (`TooLarge`) where it has no room.
        """
        try:
            return await self._writer.add_finalizer(job)
        except TooLargeError as error:
            raise InvalidResourceError(
                ConditionReason.TOO_LARGE, _too_large("no finalizer can be added to the job")
            ) from error

    def _wallets(self, job: ComputeJob, chosen: Verdict, state: HubState) -> Pair:
        """(tenant wallet, provider wallet) that this attempt is settled between; empty without settlement."""
        if state.wallets is None:
            return "", ""
        known = state.wallets
        return known.tenants.get(job.metadata.namespace, ""), known.payouts.get(chosen.provider, "")


def _turn_of(uid: str) -> int:
    return crc32(uid.encode()) % TURNS


def _goes_by_time(job: Job) -> bool:
    """Whether time alone may change what placement says of the job: its deadline nears, or a measurement gets old."""
    return job.deadline is not None or (job.latency is not None and bool(job.latency.vantages))


def _is_due(facts: JobFacts, now: datetime) -> bool:
    """Whether the job is to be decided on now; one whose last attempts were refused waits ever longer."""
    if phase(facts, now) not in (Phase.PENDING, Phase.DRY_RUN):
        return False
    resumes = resumes_at(facts)
    return resumes is None or resumes <= now


def _must_fit(job: JSONObject) -> None:
    """Raises InvalidResourceError (`TooLarge`) for a job that would have no room for its later status."""
    if excess := excess_of_job(job):
        raise InvalidResourceError(ConditionReason.TOO_LARGE, _too_large(f"the job is {excess} bytes too large"))


def _too_large(what: str) -> str:
    return (
        f"{what}: its status, and what others add, must fit beside it into the {MOST_STORED} bytes of one object in "
        "etcd; shorten spec.template, or remove annotations and labels, then it is placed"
    )


def _goes_to(decision: Decision, awaited: Awaiting) -> bool:
    """Whether a place was found at a provider that is about to report."""
    return decision.chosen is not None and decision.chosen.provider in awaited


def _gist(decision: Decision) -> Gist:
    chosen = decision.chosen
    return (decision.reason, "", "", 0) if chosen is None else (None, chosen.provider, chosen.product, chosen.price)


def _is_known(before: JobFacts, now: JobFacts) -> bool:
    """Whether what this pass says of a job at rest is what is remembered of it, which is without the verdicts."""
    one, two = before.decision, now.decision
    if one is None or two is None or before.invalid is not now.invalid or before.priority != now.priority:
        return False
    return (one.chosen, one.reason, one.message, one.policies) == (two.chosen, two.reason, two.message, two.policies)


def _words(decision: Decision) -> Words:
    return _gist(decision), decision.message, decision.policies, tuple(decision.verdicts[:MAX_CANDIDATES])


def _goes(facts: JobFacts) -> bool:
    """Whether this pass found a place for the job, and it is meant in earnest."""
    return facts.decision is not None and facts.decision.chosen is not None and not facts.job.spec.dry_run
