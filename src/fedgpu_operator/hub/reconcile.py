"""Gives a ledger back what leases and jobs on the hub prove that it held; what they cannot prove stays a gap."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.domain.books import Attempt, AttemptRequest, lease_name
from fedgpu_operator.domain.money import parse_usd
from fedgpu_operator.hub.billing import UsageBiller
from fedgpu_operator.hub.gaps import Gap, GapKind
from fedgpu_operator.hub.jobfacts import SUPERSEDED, outcome_of
from fedgpu_operator.hub.store import load_all
from fedgpu_operator.ports import Clock, Kube, Ledger

log = logging.getLogger(__name__)

FROM_LEASE: Final = "reconciled-from-lease"
FROM_STATUS: Final = "reconciled-from-status"
"""How `request_id` of an attempt that was put back begins: it is hashed into the ledger's chain with its terms."""


@dataclass(frozen=True, slots=True)
class Repair:
    """What was done, a line for each attempt that was put back."""

    lines: tuple[str, ...]


class Reconciler:
    """Works on a ledger that no operator has open. Every step may be repeated after a crash."""

    def __init__(self, kube: Kube, ledger: Ledger, clock: Clock, biller: UsageBiller) -> None:
        self._kube, self._ledger, self._clock, self._biller = kube, ledger, clock, biller
        self._lines: list[str] = []
        self._providers: dict[str, GPUProvider] = {}
        """Whose signatures their leases' readings need."""

    async def repair(self, gaps: Collection[Gap], losses: Collection[str]) -> Repair:
        """Put back the attempts of these gaps, and bill what their leases read.

        An attempt that only a job's status names has no wallets and no reading: it is put back without usage, so that
        its number is not given out again, if the id of its gap is in `losses`. Raises KubeError, LedgerError.
        """
        self._providers = {each.metadata.name: each for each in await load_all(self._kube, GPUProvider)}
        wanted = {gap.name: gap for gap in gaps if gap.kind is GapKind.ATTEMPT}
        short = {gap.name for gap in gaps if gap.kind is GapKind.USAGE}
        by_job: defaultdict[str, list[ComputeLease]] = defaultdict(list)
        for lease in await load_all(self._kube, ComputeLease):
            if lease.metadata.name == lease_name(lease.spec.job.uid, lease.spec.attempt):
                by_job[lease.spec.job.uid].append(lease)
        jobs = {job.metadata.uid: job for job in await load_all(self._kube, ComputeJob)}
        for uid in sorted(by_job.keys() | jobs.keys()):
            leases = sorted(by_job[uid], key=lambda each: each.spec.attempt)
            names = {lease.metadata.name for lease in leases}
            if not (short & {uid, *names}) and not (wanted.keys() & names) and not _names(jobs.get(uid), wanted):
                continue
            await self._repair_job(leases, jobs.get(uid), wanted, losses)
        return Repair(tuple(self._lines))

    async def _repair_job(
        self, leases: Iterable[ComputeLease], job: ComputeJob | None, wanted: dict[str, Gap], losses: Collection[str]
    ) -> None:
        seen: dict[str, ComputeLease] = {}
        for lease in leases:
            seen[lease.metadata.name] = lease
            if lease.metadata.name in wanted:
                await self._end_open(lease.spec.job.uid, seen)
                request = _request(lease, f"{FROM_LEASE}-{lease.spec.attempt}")
                at = lease.metadata.creation_timestamp or self._clock.now()
                await self._put_back(request, lease.spec.attempt, f"lease {lease.metadata.name}", at=at)
            entry = await self._ledger.lease_usage(lease.metadata.name)
            if entry is not None:
                await self._biller.bill(entry.attempt, lease, self._providers.get(lease.spec.provider), job)
        gap = _names(job, wanted)
        if job is not None and gap is not None and gap.name not in seen and gap.id in losses:
            placement = job.status.placement
            if placement is None:
                return
            await self._end_open(job.metadata.uid, seen)
            request = _request_of_status(job, f"{FROM_STATUS}-{placement.attempt}")
            at = placement.placed_at or self._clock.now()
            attempt = await self._put_back(request, placement.attempt, f"the status of job {job.key}", at=at)
            await self._ledger.end_attempt(attempt.lease_name, SUPERSEDED, self._clock.now())

    async def _put_back(self, request: AttemptRequest, number: int, source: str, *, at: datetime) -> Attempt:
        attempt = await self._ledger.reenter_attempt(request, number, at)
        self._lines.append(f"attempt {attempt.lease_name} put back from {source}")
        log.warning("attempt %s is put back into the ledger from %s", attempt.lease_name, source)
        return attempt

    async def _end_open(self, uid: str, seen: dict[str, ComputeLease]) -> None:
        """End the attempt that the ledger holds open though a later one began: as its lease ended, if that is there."""
        entries = (await self._ledger.histories([uid])).get(uid, ())
        newest = entries[-1].attempt if entries else None
        if newest is None or not newest.is_open:
            return
        lease = seen.get(newest.lease_name)
        outcome = outcome_of(lease) if lease is not None and lease.status.ended else SUPERSEDED
        await self._ledger.end_attempt(newest.lease_name, outcome, self._clock.now())


def _names(job: ComputeJob | None, wanted: dict[str, Gap]) -> Gap | None:
    """The gap of the attempt that a job's status shows."""
    placement = job.status.placement if job is not None else None
    return wanted.get(placement.lease) if placement is not None else None


def _request(lease: ComputeLease, request_id: str) -> AttemptRequest:
    """The terms that a lease froze."""
    spec = lease.spec
    return AttemptRequest(
        job_uid=spec.job.uid,
        request_id=request_id,
        tenant=spec.job.namespace,
        job_name=spec.job.name,
        provider=spec.provider,
        product=spec.product,
        price=parse_usd(spec.price_per_gpu_hour),
        gpus=spec.gpus,
        run_limit=spec.run_limit_seconds + spec.grace_seconds,
        tenant_wallet=spec.tenant_wallet,
        provider_wallet=spec.provider_wallet,
    )


def _request_of_status(job: ComputeJob, request_id: str) -> AttemptRequest:
    """What a job's status shows of its attempt; the wallets are not in it, so nothing can be billed."""
    placement = job.status.placement
    if placement is None:
        raise ValueError(f"job {job.key} shows no placement")
    return AttemptRequest(
        job_uid=job.metadata.uid,
        request_id=request_id,
        tenant=job.metadata.namespace,
        job_name=job.metadata.name,
        provider=placement.provider,
        product=placement.product,
        price=parse_usd(placement.price),
        gpus=job.gpus,
        run_limit=job.billable_limit,
    )
