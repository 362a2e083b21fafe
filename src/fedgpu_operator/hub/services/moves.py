"""Moves of running work: what may move, and carrying moves out; which ones is decided by placement."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease, plausible
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.attempts import AttemptUsage
from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.money import parse_usd
from fedgpu_operator.domain.offer import Histogram
from fedgpu_operator.domain.running import Announced, Hysteresis, Move, RunningJob
from fedgpu_operator.domain.text import counted
from fedgpu_operator.errors import InvalidResourceError, KubeError
from fedgpu_operator.hub.services.attempts import AttemptKeeper
from fedgpu_operator.hub.services.changes import ChangeDetector
from fedgpu_operator.hub.services.holds import HOLD, Freed, waiting_jobs
from fedgpu_operator.hub.services.hubstate import UNKNOWN_PRODUCT, HubState, free_histogram
from fedgpu_operator.hub.services.writes import Writers, one_of_many
from fedgpu_operator.hub.views.jobfacts import MOVED, JobFacts, Notice, Phase, notice_of, phase
from fedgpu_operator.hub.views.providers import is_ready
from fedgpu_operator.placement import Snapshot
from fedgpu_operator.placement.moves import replan
from fedgpu_operator.placement.registry import Plugins
from fedgpu_operator.placement.reservations import Reservations
from fedgpu_operator.ports import Clock, Metrics

log = logging.getLogger(__name__)

Usage = Mapping[str, tuple[AttemptUsage, ...]]
"""What the ledger holds of jobs by uid, oldest first."""


def freed_of(state: HubState) -> Freed:
    """What would be free of an offer without some leases, counted as the offers themselves are."""
    by_provider: dict[str, list[ComputeLease]] = {}
    for lease in state.leases.values():
        if not lease.status.ended:
            by_provider.setdefault(lease.spec.provider, []).append(lease)

    def freed(offer: str, gone: frozenset[str]) -> Histogram:
        name, _, product = offer.partition("/")
        provider, report = state.providers.get(name), state.reports.get(name)
        if provider is None or report is None:
            return {}
        reported = next((each for each in report.status.products if each.product == product), UNKNOWN_PRODUCT)
        limit = next((each.max_gpus for each in provider.spec.offers if each.product == product), 0)
        stays = [lease for lease in by_provider.get(name, ()) if lease.metadata.name not in gone]
        return free_histogram(reported, stays, limit, report.aside)

    return freed


@dataclass(frozen=True, slots=True)
class MovableJob:
    """A running job that may be moved, with the objects that say so."""

    facts: JobFacts
    lease: ComputeLease
    notice: Notice | None


def moves_left(facts: JobFacts) -> int:
    used = sum(1 for attempt in facts.attempts if attempt.outcome in MOVED)
    return facts.job.spec.disruption.max_moves - used


def candidates(state: HubState) -> list[ComputeJob]:
    """Jobs whose owner lets them be moved and that have a lease which goes on."""
    return [
        job
        for job in state.jobs
        if job.spec.disruption.reclaimable
        and job.metadata.deletion_timestamp is None
        and any(each.spec.desired == "Run" and not each.status.ended for each in state.leases_for(job.metadata.uid))
    ]


def subjects_of(state: HubState, usage: Usage) -> list[MovableJob] | None:
    """The running jobs that may be moved: their owner lets it, moves are left, and their member answers.

    A job whose entries in the ledger are not known is left out: it is neither moved nor is its notice called off. None
    where a provider that is to be left is being judged anew: a moment later all is known, and what was announced is
    neither called off nor given to another.
    """
    found = []
    for job in candidates(state):
        entries = usage.get(job.metadata.uid)
        if entries is None:
            continue
        facts = JobFacts(job=job, usage=entries)
        newest = facts.newest
        lease = state.leases.get(newest.lease_name) if newest is not None and newest.is_open else None
        if lease is None or lease.spec.desired == "Stop" or lease.status.ended or moves_left(facts) < 1:
            continue
        provider, notice = state.providers.get(lease.spec.provider), notice_of(lease)
        if provider is None:
            continue
        if notice is not None and provider.status.observed_generation != provider.metadata.generation:
            return None
        if is_ready(provider) and _readable(lease):
            found.append(MovableJob(replace(facts, lease=lease), lease, notice))
    return found


def _readable(lease: ComputeLease) -> bool:
    """Whether its start is an instant that a clock shows: its provider wrote it."""
    try:
        plausible(lease.status.usage.started_at)
    except InvalidResourceError:
        return False
    return True


def running_of(subjects: Iterable[MovableJob], view: Snapshot) -> dict[str, RunningJob]:
    """By lease name; those whose job the snapshot lacks cannot be judged and are left out."""
    jobs = {job.uid: job for job in view.jobs}
    return {
        each.lease.metadata.name: _running(each, jobs[uid], view.now)
        for each in subjects
        if (uid := each.facts.job.metadata.uid) in jobs
    }


def _running(each: MovableJob, job: Job, now: datetime) -> RunningJob:
    lease, newest = each.lease, each.facts.newest
    began = lease.status.usage.started_at
    return RunningJob(
        job=job,
        lease=lease.metadata.name,
        provider=lease.spec.provider,
        product=lease.spec.product,
        price=parse_usd(lease.spec.price_per_gpu_hour),
        seconds=max(1, _whole(now - began)) if began is not None else 0,
        resident=_whole(now - newest.created_at) if newest is not None else 0,
        moves_left=moves_left(each.facts),
        notice=each.facts.job.spec.disruption.notice_seconds,
        grace=lease.spec.grace_seconds,
        announced=each.notice.move if each.notice is not None else None,
    )


def _whole(duration: timedelta) -> int:
    return max(0, int(duration.total_seconds()))


def leaving(state: HubState, now: datetime) -> dict[str, frozenset[str]]:
    """By offer, the leases that were told to stop and, their member answering, end soon."""
    found: dict[str, set[str]] = {}
    for lease in state.leases.values():
        asked, provider = lease.spec.stop_requested_at, state.providers.get(lease.spec.provider)
        if lease.spec.desired != "Stop" or lease.status.ended or asked is None:
            continue
        if (
            provider is not None
            and is_ready(provider)
            and now < asked + timedelta(seconds=lease.spec.grace_seconds) + HOLD
        ):
            found.setdefault(f"{lease.spec.provider}/{lease.spec.product}", set()).add(lease.metadata.name)
    return {offer: frozenset(names) for offer, names in found.items()}


MAX_WAITING: Final = 512
"""Waiting jobs that room is thought of for in one pass: those of the highest priority."""
REBALANCE_EVERY: Final = timedelta(seconds=30)
"""How often offers that only became fuller or emptier are looked at again; a new price or a drain at once."""

View = Callable[[list[JobFacts], HubState, datetime], Awaitable[tuple[Snapshot, dict[str, InvalidResourceError]]]]
"""The placer's: a snapshot of these jobs, and why the others among them cannot be read."""
Entries = Callable[[Collection[str]], Awaitable[Usage]]
"""What the ledger holds of the jobs of these uids; one that cannot be read now is not among the answers."""


class Mover:
    """Looks once per pass, after placement. What it knows it reads from leases, jobs and the ledger's attempts."""

    def __init__(
        self,
        writers: Writers,
        clock: Clock,
        metrics: Metrics,
        keeper: AttemptKeeper,
        view: View,
        *,
        forget: Callable[[str], None],
        rules: Hysteresis,
        plugins: Plugins,
    ) -> None:
        self._plugins = plugins
        self._jobs, self._leases = writers.jobs, writers.leases
        self._provider_writer = writers.providers
        self._clock = clock
        self._metrics = metrics
        self._keeper = keeper
        self._forget = forget
        self._view = view
        self._rules = rules
        self._left: dict[str, JobFacts] = {}
        self._waiting: list[JobFacts] = []
        self._told: dict[str, str] = {}
        self._prices: object = None
        self._providers = ChangeDetector()
        self._watched = ChangeDetector()
        self._draining: dict[str, GPUProvider] = {}
        self._looked: datetime | None = None

    async def move(self, decided: Sequence[JobFacts], state: HubState, usage: Entries, *, anew: bool) -> float | None:
        """Bring every announced move one step on and announce new ones; seconds until the next step, None for none.

        `decided` are the jobs that this pass looked at; with `anew`, all that wait are among them. `usage` says what
        the ledger holds of a job.
        """
        now = self._clock.now()
        self._remember(decided, anew=anew)
        await self._tell_drained(state)
        subjects = subjects_of(state, await usage([job.metadata.uid for job in candidates(state)]))
        if subjects is None:
            return 1.0
        due = self._is_time(state, now)
        if not subjects:
            return None
        self._waiting = _waiting(self._left, state, now)
        if not (self._waiting or due or any(each.notice for each in subjects)):
            return None
        # What was placed in this pass takes room and money: both are read again.
        fresh = replace(state)
        view, _ = await self._view([*(each.facts for each in subjects), *self._waiting], fresh, now)
        running = running_of(subjects, view)
        # Pure and, in a large federation, seconds long: probes and agents go on meanwhile.
        moves = await asyncio.to_thread(self._plan, view, fresh, list(running.values()), anew=due)
        steps = []
        for each in subjects:
            name = each.lease.metadata.name
            with one_of_many(each.lease):
                steps.append(await self._step(each, running.get(name), moves.get(name), state))
        if due:
            self._looked = now
        ahead = [each for each in steps if each is not None]
        return min(ahead) if ahead else None

    async def carry_on(self, state: HubState, usage: Entries) -> float | None:
        """Stop what was announced and is due, without thinking of anything new; seconds until the next stop.

        For a pass that has no time to plan, or must not: what was promised to others does not wait for it.
        """
        told = [
            job.metadata.uid for job in candidates(state) if any(map(notice_of, state.leases_for(job.metadata.uid)))
        ]
        subjects = (subjects_of(state, await usage(told)) if told else None) or []
        now, waiting = self._clock.now(), waiting_jobs(state)
        due = []
        for each in subjects:
            notice = each.notice
            if notice is None or (notice.move.serves and notice.move.serves not in waiting):
                continue
            to = state.providers.get(notice.move.to.partition("/")[0])
            if notice.move.to and (to is None or to.spec.drain or not is_ready(to)):
                continue
            if now < notice.stop_at:
                due.append((notice.stop_at - now).total_seconds())
                continue
            with one_of_many(each.lease):
                await self._stop(each, each.lease, notice, state)
        return min(due) if due else None

    def _remember(self, decided: Sequence[JobFacts], *, anew: bool) -> None:
        """Who waits: all that the last decision left out, less what became something else since."""
        if anew:
            self._left = {facts.job.metadata.uid: facts for facts in decided if _was_left(facts)}
            return
        for facts in decided if self._left else ():
            if self._left.pop(facts.job.metadata.uid, None) is not None and _was_left(facts):
                self._left[facts.job.metadata.uid] = facts

    def _plan(self, view: Snapshot, state: HubState, running: Sequence[RunningJob], *, anew: bool) -> dict[str, Move]:
        now, jobs = view.now, {job.uid: job for job in view.jobs}
        board = Reservations(view, freed_of(state), leaving(state, now), self._plugins)
        nominated = frozenset(
            notice.move.serves
            for lease in state.leases.values()
            if (notice := notice_of(lease)) is not None and now < notice.held_until
        )
        moves = replan(
            board,
            [jobs[uid] for facts in self._waiting if (uid := facts.job.metadata.uid) in jobs],
            running,
            draining=frozenset(name for name, provider in state.providers.items() if provider.spec.drain),
            nominated=nominated,
            rules=self._rules if anew else None,
        )
        return {move.lease: move for move in moves}

    def _is_time(self, state: HubState, now: datetime) -> bool:
        """Whether offers changed, or it is long enough ago that capacity was looked at."""
        changed = False
        if self._providers.changed(state.providers.values()):
            prices = {
                name: (
                    each.spec.drain,
                    is_ready(each),
                    [(offer.product, offer.price_per_gpu_hour) for offer in each.spec.offers],
                )
                for name, each in state.providers.items()
            }
            changed, self._prices = prices != self._prices, prices
        return changed or self._looked is None or now - self._looked >= REBALANCE_EVERY

    # ---- one move

    async def _step(
        self, each: MovableJob, running: RunningJob | None, move: Move | None, state: HubState
    ) -> float | None:
        """Announce, wait, stop or call off; seconds until the stop where it is still ahead."""
        now, lease = self._clock.now(), each.lease
        if running is None or move is None:
            if each.notice is not None:
                state.took(await self._call_off(each))
            return None
        notice = _notice(each, running, move, now)
        if each.notice is None or each.notice.move != notice.move:
            await self._tell(each, notice)
            # The workload is asked once to save its work.
            first = each.notice is None and now < notice.stop_at
            lease = await self._leases.announce_move(each.lease, notice, checkpoint=first)
            state.took(lease)
        if now < notice.stop_at:
            return (notice.stop_at - now).total_seconds()
        await self._stop(each, lease, notice, state)
        return None

    async def _stop(self, each: MovableJob, lease: ComputeLease, notice: Notice, state: HubState) -> None:
        reason = notice.move.reason.value
        attempt = each.facts.usage[-1].attempt
        try:
            _, lease = await self._keeper.stop(attempt, lease, reason)
        except KubeError:
            # The stop is in the ledger already: it is read again, and carried out by the next pass.
            self._forget(each.facts.job.metadata.uid)
            raise
        state.took(lease)
        self._metrics.moved(reason)
        text = f"the attempt at {lease.spec.provider} is stopped: {notice.why}"
        await self._jobs.event(each.facts.job, "Warning", reason, text)

    async def _call_off(self, each: MovableJob) -> ComputeLease:
        text = "the announced move is called off: it is not needed any more, or not possible"
        await self._jobs.event(each.facts.job, "Normal", ConditionReason.MOVE_CALLED_OFF, text)
        return await self._leases.cancel_move(each.lease)

    async def _tell(self, each: MovableJob, notice: Notice) -> None:
        when = f"{notice.stop_at:%Y-%m-%dT%H:%M:%SZ}"
        text = f"the attempt at {each.lease.spec.provider} is stopped at {when} and the job placed again: {notice.why}"
        await self._jobs.event(each.facts.job, "Warning", ConditionReason.MOVE_ANNOUNCED, text)

    async def _tell_drained(self, state: HubState) -> None:
        """Say beside each draining provider what stays there because nobody may move it."""
        if self._watched.changed(state.providers.values()):
            self._draining = {name: provider for name, provider in state.providers.items() if provider.spec.drain}
        jobs = {job.metadata.uid: job for job in state.jobs} if self._draining else {}
        for name, provider in self._draining.items():
            here = [jobs.get(lease.spec.job.uid) for lease in state.leases_of(name)]
            stays = sum(1 for job in here if job is None or not job.spec.disruption.reclaimable)
            text = f"draining: {counted(len(here), 'lease')} here, of which {stays} may not be moved"
            if self._told.get(name) != text:
                with one_of_many(provider):
                    await self._provider_writer.event(provider, "Normal", ConditionReason.DRAINING, text)
                    self._told[name] = text


def _was_left(facts: JobFacts) -> bool:
    """Whether a decision placed the job nowhere."""
    return facts.decision is not None and facts.decision.chosen is None


def _waiting(left: Mapping[str, JobFacts], state: HubState, now: datetime) -> list[JobFacts]:
    """Those of these jobs that still wait for a place, the highest priority first."""
    present = (left.get(job.metadata.uid) for job in state.jobs)
    found = [facts for facts in present if facts is not None and phase(facts, now) is Phase.PENDING]
    return sorted(found, key=lambda facts: (-(facts.priority or 0), facts.job.metadata.uid))[:MAX_WAITING]


def _notice(each: MovableJob, running: RunningJob, move: Move, now: datetime) -> Notice:
    """What is announced: the first announcement sets the instant of the stop, whatever the reason becomes."""
    stop_at = each.notice.stop_at if each.notice is not None else now + timedelta(seconds=running.warning)
    held_until = max(stop_at, now) + timedelta(seconds=running.grace) + HOLD
    announced = Announced(move.reason, move.to, move.serves)
    return Notice(announced, stop_at, held_until, running.job.priority, move.message)
