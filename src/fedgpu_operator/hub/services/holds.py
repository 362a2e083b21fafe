"""The capacity that announced moves hold for a while; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from fedgpu_operator.api.base import is_true
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.domain.decision import Decision
from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import Histogram, Offer, take
from fedgpu_operator.hub.services.hubstate import HubState
from fedgpu_operator.hub.views.jobfacts import notice_of
from fedgpu_operator.placement import Snapshot

HOLD: Final = timedelta(seconds=120)
"""How long capacity is held beyond the stop and its grace; then it is anybody's. A new place is held as long before."""
MOST_APART: Final = 32
"""Jobs with held capacity that are decided one by one; what is beyond comes together, bound by all that is held."""


Decide = Callable[[Snapshot], Sequence[Decision]]


class Hold(NamedTuple):
    """Capacity of an offer (by name) that is kept for a job; `waits` is whether the job could have it now."""

    offer: str
    uid: str
    gpus: int
    replicas: int
    priority: int
    waits: bool
    after: frozenset[str] = frozenset()
    """Leases that go first: what they take now is part of it."""


def waiting_jobs(state: HubState) -> dict[str, ComputeJob]:
    """By uid, the jobs that exist, have not ended, are to run and do not: whatever this pass could learn of them."""
    return {
        job.metadata.uid: job
        for job in state.jobs
        if job.metadata.deletion_timestamp is None
        and not (job.spec.suspend or job.spec.dry_run or _has_ended(job))
        and all(lease.status.ended for lease in state.leases_for(job.metadata.uid))
    }


def _has_ended(job: ComputeJob) -> bool:
    """A job that could not be read as a job says Failed too, but was placed nowhere."""
    status = job.status
    return is_true(status.conditions, "Complete") or (status.ended and status.placement is not None)


def holds(
    leases: Iterable[ComputeLease], waiting: Mapping[str, ComputeJob], known: Mapping[str, Job], now: datetime
) -> tuple[Hold, ...]:
    """The capacity that announced moves hold: for whom is moved, and for whom room is made.

    `waiting` has every job that waits, by uid: a mover that has stopped and one that is served must be among them.
    `known` has those of them that are decided on now; who is not, because an object of it could not be read or written
    this time, keeps what is held for it.
    """
    found: list[Hold] = []
    rooms: dict[tuple[str, str], set[str]] = {}
    least: dict[str, int] = {}
    for lease in leases:
        notice = notice_of(lease)
        if notice is None or now >= notice.held_until:
            continue
        own, mover, ended = f"{lease.spec.provider}/{lease.spec.product}", lease.spec.job.uid, lease.status.ended
        # Who comes back to the same offer holds its own GPUs until it has stopped. Long before the stop a place may
        # serve others and be free again.
        soon = now >= notice.stop_at - HOLD
        if notice.move.to and (mover in waiting if ended else soon and notice.move.to != own):
            load = (lease.spec.gpus_per_replica, lease.spec.replicas)
            found.append(Hold(notice.move.to, mover, *load, notice.priority, waits=ended))
        if notice.move.serves in waiting:
            uid = notice.move.serves
            rooms.setdefault((uid, own), set()).update(() if ended else (lease.metadata.name,))
            # Nobody is stopped for an equal.
            least[uid] = max(notice.priority + 1, least.get(uid, notice.priority + 1))
    for (uid, offer), going in sorted(rooms.items(), key=lambda room: room[0]):
        spec, priority = waiting[uid].spec, known[uid].priority if uid in known else least[uid]
        found.append(Hold(offer, uid, spec.gpu.count, spec.replicas, priority, waits=True, after=frozenset(going)))
    return tuple(found)


Freed = Callable[[str, frozenset[str]], Histogram]


def decide_held(view: Snapshot, held: Sequence[Hold], freed: Freed, decide: Decide) -> list[Decision]:
    """Decisions of one pass while capacity is held.

    Jobs of a higher priority than all that is held are not bound by it. Then come those for whom it is held, each bound
    by what is held for others of no lower priority, then all others on what is left. `freed` says what is free at an
    offer once some leases have gone.
    """
    owners, most = {hold.uid for hold in held if hold.waits}, max(hold.priority for hold in held)
    begun = {hold.uid for hold in held if hold.after}
    # First those whose room is there.
    own = sorted((job for job in view.jobs if job.uid in owners), key=lambda job: (job.uid in begun, -job.priority))
    groups: list[tuple[list[Job], Sequence[Hold]]] = [
        ([job for job in view.jobs if job.priority > most and job.uid not in owners], ()),
        *(
            ([job], [hold for hold in held if hold.uid != job.uid and hold.priority >= job.priority])
            for job in own[:MOST_APART]
        ),
        (own[MOST_APART:], held),
        ([job for job in view.jobs if job.priority <= most and job.uid not in owners], held),
    ]
    decided: list[Decision] = []
    for jobs, bound in groups:
        if jobs:
            served = {each.job_uid for each in decided if each.chosen is not None}
            left = _left([hold for hold in bound if hold.uid not in served], view.offers, freed)
            found = decide(replace(view, jobs=tuple(jobs), offers=left))
            decided += found
            view = _charged(view, jobs, found)
    return decided


def _left(held: Sequence[Hold], offers: Sequence[Offer], freed: Freed) -> tuple[Offer, ...]:
    """The offers without what is held."""
    by_offer: dict[str, list[Hold]] = {}
    for hold in held:
        by_offer.setdefault(hold.offer, []).append(hold)
    return tuple(_without(offer, by_offer[offer.name], freed) if offer.name in by_offer else offer for offer in offers)


def _without(offer: Offer, held: list[Hold], freed: Freed) -> Offer:
    now: Histogram = offer.free
    for hold in held:
        base = freed(offer.name, hold.after) if hold.after else now
        later = take(base, hold.gpus, hold.replicas) or {}
        # Both now and then: a node that the job will need must not be sold while others still leave it.
        now = {gpus: min(nodes, later[gpus]) for gpus, nodes in now.items() if later.get(gpus)} if hold.after else later
    slots = offer.lease_slots
    taken = sum(1 for hold in held if not hold.after)
    return replace(offer, free=now, lease_slots=None if slots is None else max(0, slots - taken))


def _charged(view: Snapshot, jobs: Iterable[Job], decisions: Iterable[Decision]) -> Snapshot:
    """The snapshot after these decisions: what they took is no longer free, nor its money."""
    by_uid = {job.uid: job for job in jobs}
    offers = {offer.name: offer for offer in view.offers}
    funds = dict(view.funds)
    slots: dict[str, int] = {}
    for each in decisions:
        if each.chosen is None:
            continue
        job, offer = by_uid[each.job_uid], offers[f"{each.chosen.provider}/{each.chosen.product}"]
        offers[offer.name] = replace(offer, free=take(offer.free, job.gpu.count, job.replicas) or {})
        slots[offer.provider] = slots.get(offer.provider, 0) + 1
        if (left := funds.get(job.namespace)) is not None:
            funds[job.namespace] = MicroUSD(max(0, left - each.chosen.cost))
    kept = tuple(
        replace(offer, lease_slots=max(0, offer.lease_slots - slots[offer.provider]))
        if offer.lease_slots is not None and offer.provider in slots
        else offer
        for offer in offers.values()
    )
    return replace(view, offers=kept, funds=funds)
