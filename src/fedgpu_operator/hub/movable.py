"""Running work and the capacity it holds, as moves see them, from leases, jobs and attempts; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from fedgpu_operator.api.base import parse_duration
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease, plausible
from fedgpu_operator.domain.books import LeaseUsage
from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.money import parse_usd
from fedgpu_operator.domain.running import MAX_NOTICE, Running
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.hub.inventory import UNKNOWN_PRODUCT, free_histogram
from fedgpu_operator.hub.jobfacts import MOVED, JobFacts
from fedgpu_operator.hub.notices import HOLD, Freed, Notice, notice_of
from fedgpu_operator.hub.providers import is_ready
from fedgpu_operator.hub.store import HubState
from fedgpu_operator.placement import Snapshot
from fedgpu_operator.placement.book import Histogram

Usage = Mapping[str, tuple[LeaseUsage, ...]]
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
        return free_histogram(reported, stays, limit)

    return freed


@dataclass(frozen=True, slots=True)
class Subject:
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


def subjects_of(state: HubState, usage: Usage) -> list[Subject] | None:
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
            found.append(Subject(replace(facts, lease=lease), lease, notice))
    return found


def _readable(lease: ComputeLease) -> bool:
    """Whether its start is an instant that a clock shows: its provider wrote it."""
    try:
        plausible(lease.status.usage.started_at)
    except InvalidResourceError:
        return False
    return True


def running_of(subjects: Iterable[Subject], view: Snapshot) -> dict[str, Running]:
    """By lease name; those whose job the snapshot lacks cannot be judged and are left out."""
    jobs = {job.uid: job for job in view.jobs}
    return {
        each.lease.metadata.name: _running(each, jobs[uid], view.now)
        for each in subjects
        if (uid := each.facts.job.metadata.uid) in jobs
    }


def _running(each: Subject, job: Job, now: datetime) -> Running:
    lease, newest = each.lease, each.facts.newest
    began = lease.status.usage.started_at
    return Running(
        job=job,
        lease=lease.metadata.name,
        provider=lease.spec.provider,
        product=lease.spec.product,
        price=parse_usd(lease.spec.price_per_gpu_hour),
        seconds=max(1, _whole(now - began)) if began is not None else 0,
        resident=_whole(now - newest.created_at) if newest is not None else 0,
        moves_left=moves_left(each.facts),
        notice=min(MAX_NOTICE, parse_duration(each.facts.job.spec.disruption.notice)),
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
