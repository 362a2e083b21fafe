"""Open attempts: opens them in the ledger, keeps their lease, stops it when it must stop, and closes the books."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from fedgpu_operator.api.base import HEADROOM, excess_of_lease
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.attempts import Attempt, AttemptRequest, AttemptUsage, Stop
from fedgpu_operator.domain.decision import Verdict
from fedgpu_operator.domain.devices import DeviceRequest
from fedgpu_operator.domain.faults import SUCCEEDED
from fedgpu_operator.domain.settlement import Pair
from fedgpu_operator.errors import (
    ConflictError,
    InvalidResourceError,
    KubeError,
    LedgerError,
    NotFoundError,
)
from fedgpu_operator.hub.services.billing import UsageBiller
from fedgpu_operator.hub.services.workloads import first_lease, provider_namespace, remade_lease
from fedgpu_operator.hub.services.writes import Writers, foreign_bytes
from fedgpu_operator.hub.views.jobfacts import SUPERSEDED, UNFUNDED, JobFacts, outcome_of, stop_reason
from fedgpu_operator.ports import LEASES, AttemptBook, Clock, Kube, Ledger, Metrics, ResourceType, read_back

log = logging.getLogger(__name__)


class Opener:
    """While one transaction runs, the requests that come meanwhile gather for the next one."""

    def __init__(self, ledger: AttemptBook, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._waiting: list[tuple[AttemptRequest, asyncio.Future[tuple[Attempt, datetime]]]] = []
        self._work: asyncio.Task[None] | None = None

    async def open(self, request: AttemptRequest) -> tuple[Attempt, bool]:
        """The ledger's attempt for this request, and whether it was opened just now; raises LedgerError."""
        answer: asyncio.Future[tuple[Attempt, datetime]] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._write())
        attempt, at = await answer
        return attempt, attempt == Attempt(request, attempt.attempt, at)

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            now = self._clock.now()
            found: Sequence[Attempt | Exception]
            try:
                found = await self._ledger.open_many([request for request, _ in batch], now)
            except LedgerError as error:
                found = (error,) * len(batch)
            except Exception as error:
                # One of ours is for those who asked, too: cancelled, they would take their loop along.
                log.exception("%d attempts could not be opened", len(batch))
                found = (error,) * len(batch)
            except BaseException:
                for _, answer in (*batch, *self._waiting):
                    answer.cancel()
                raise
            for (_, answer), each in zip(batch, found, strict=True):
                if answer.done():
                    continue
                if isinstance(each, Exception):
                    answer.set_exception(each)
                else:
                    answer.set_result((each, now))


COMPUTE_JOBS = ResourceType.of(ComputeJob.info)
JOB_GONE: Final = ConditionReason.JOB_GONE.value


class AttemptKeeper:
    """The only one that opens, stops, bills and ends attempts."""

    def __init__(
        self,
        kube: Kube,
        writers: Writers,
        ledger: Ledger,
        clock: Clock,
        metrics: Metrics,
        biller: UsageBiller,
        *,
        moved: Callable[[str], None],
    ) -> None:
        """`moved` is called with its namespace after an attempt was opened or ended, or may have been."""
        self._moved = moved
        self._kube = kube
        self._leases = writers.leases
        self._ledger = ledger
        self._clock = clock
        self._metrics = metrics
        self._biller = biller
        self._opener = Opener(ledger, clock)

    async def usage(self, job_uid: str) -> tuple[AttemptUsage, ...]:
        """Every attempt of a job with its newest billed usage, oldest first."""
        return (await self._ledger.histories([job_uid])).get(job_uid, ())

    async def begin(
        self, facts: JobFacts, chosen: Verdict, wallets: Pair, devices: DeviceRequest
    ) -> tuple[JobFacts, Attempt]:
        """Open an attempt on these terms; the facts have it, and it has no lease yet.

        `devices` is how its provider's member is asked for the product.

        The request is named by the attempt that came before, so two passes over the same facts ask for one. Raises
        InvalidResourceError, with no attempt opened, for a job that cannot be rendered or would be too large to be
        followed, and ConflictError for facts that are older than the ledger: that attempt was opened before, so its
        workload may have been started, or has ended.
        """
        job, now = facts.job, self._clock.now()
        request = AttemptRequest(
            job_uid=job.metadata.uid,
            request_id=f"after-{facts.newest.attempt if facts.newest else 0}",
            tenant=job.metadata.namespace,
            job_name=job.metadata.name,
            provider=chosen.provider,
            product=chosen.product,
            price=chosen.price,
            gpus=job.gpus,
            run_limit=job.billable_limit,
            tenant_wallet=wallets[0],
            provider_wallet=wallets[1],
        )
        # Tried before it counts: an attempt that can have no lease would stay open and hold its money for ever.
        if excess := excess_of_lease(first_lease(job, Attempt(request, 1, now), devices)):
            text = f"the workload is {excess} bytes too large for a lease: shorten spec.template"
            raise InvalidResourceError(ConditionReason.TOO_LARGE, text)
        try:
            attempt, fresh = await self._opener.open(request)
        finally:
            self._moved(request.tenant)
        if not fresh:
            raise ConflictError(f"attempt {attempt.attempt} of job {job.key} was opened before: facts are out of date")
        # That of the attempt before is not its lease: its end must not be shown as that of this one.
        return replace(facts, lease=None, usage=(*facts.usage, AttemptUsage(attempt, 0, 0))), attempt

    async def follow(
        self, facts: JobFacts, attempt: Attempt, provider: GPUProvider | None, *, funded: bool = True
    ) -> JobFacts:
        """Bring an open attempt at that provider and its lease into line; returns the facts as they are then.

        `funded` is whether there is still money for it.
        """
        lease = facts.lease
        if lease is None:
            return await self._without_lease(facts, attempt, funded=funded)
        reason = stop_reason(facts.job, self._clock.now(), funded=funded)
        attempt, lease, failed = await self._in_line(attempt, lease, reason)
        # Billed first: what ran is paid for, though the lease may not be writable.
        complete = await self._biller.bill(attempt, lease, provider, facts.job)
        if complete and lease.status.ended and lease.status.usage.final:
            attempt = await self.close(attempt, outcome_of(lease))
        if failed is not None:
            raise failed
        lease = await self._shed(attempt, lease)
        entry, usage = facts.usage[-1], lease.status.usage
        if entry.sequence < lease.spec.sequence_base + usage.sequence and (usage.gpu_seconds or usage.final):
            newest = await self._ledger.last_usage(lease.metadata.name)
            if newest is not None:
                entry = AttemptUsage(attempt, newest.gpu_seconds, newest.sequence)
        return replace(facts, lease=lease, usage=(*facts.usage[:-1], replace(entry, attempt=attempt)))

    async def _without_lease(self, facts: JobFacts, attempt: Attempt, *, funded: bool) -> JobFacts:
        """Make the lease of an open attempt again, or close an attempt that never had one.

        The new object carries the stop that is due, and nothing that could be started a second time.

        Asked by name, both of them: what was read may be older than what is there, and a job's status that froze its
        spec, or a lease, that merely was not seen yet must not end an attempt that runs.
        """
        meta = facts.job.metadata
        job = read_back(self._kube, ComputeJob, await self._kube.get(COMPUTE_JOBS, meta.name, meta.namespace))
        if job.metadata.uid != meta.uid:
            raise ConflictError(f"job {facts.job.key} is another object by now")
        facts, placement = replace(facts, job=job), job.status.placement
        usage = await self.usage(meta.uid)
        if not usage or usage[-1].attempt.lease_name != attempt.lease_name or not usage[-1].attempt.is_open:
            # What was remembered is older than the books, and what has ended there must not run a second time.
            return replace(facts, usage=usage)
        entry = usage[-1]
        if placement is not None and placement.lease == attempt.lease_name:
            if reason := stop_reason(job, self._clock.now(), funded=funded):
                entry = replace(entry, attempt=await self._keep_stop(entry.attempt, reason))
            lease = await self._remake(entry, job)
            return replace(facts, lease=lease, usage=(*usage[:-1], entry))
        try:
            found = await self._kube.get(LEASES, attempt.lease_name, provider_namespace(attempt.terms.provider))
        except NotFoundError:
            # The process died before the job's status froze its spec: no lease was ever made.
            ended = replace(entry, attempt=await self.close(attempt, SUPERSEDED))
            return replace(facts, usage=(*usage[:-1], ended))
        return replace(facts, lease=read_back(self._kube, ComputeLease, found), usage=usage)

    async def wind_up(
        self, entry: AttemptUsage, lease: ComputeLease | None, provider: GPUProvider | None, *, funded: bool = True
    ) -> Attempt:
        """Stop, bill and close an open attempt whose job object is gone, or only bill one that cannot be read.

        Returns the attempt as it is then.

        A lease that is gone too is made again with the stop: what may still run on the member must end and be billed.
        Only where the provider is gone as well, and nobody is left who could answer, is it closed as it stands.
        """
        attempt = entry.attempt
        exists, complete = await self._job_exists(attempt), True
        reason = JOB_GONE if not exists else "" if funded else UNFUNDED
        if lease is None:
            if exists or await self._lease_exists(attempt):
                return attempt
            if provider is not None:
                attempt = await self._keep_stop(attempt, reason)
                await self._remake(replace(entry, attempt=attempt), None)
                return attempt
        else:
            attempt, lease, failed = await self._in_line(attempt, lease, reason)
            complete = await self._biller.bill(attempt, lease, provider, None)
            if not (complete and lease.status.ended and lease.status.usage.final):
                if failed is not None:
                    raise failed
                return attempt
        outcome = JOB_GONE if lease is None else outcome_of(lease)
        return await self.close(attempt, outcome)

    async def _job_exists(self, attempt: Attempt) -> bool:
        """Asked by name: an object that merely could not be read must not look like one that is gone."""
        try:
            job = await self._kube.get(COMPUTE_JOBS, attempt.terms.job_name, attempt.terms.tenant)
        except NotFoundError:
            return False
        return bool(job["metadata"]["uid"] == attempt.terms.job_uid)

    async def _lease_exists(self, attempt: Attempt) -> bool:
        """Asked by name, as the job is."""
        try:
            await self._kube.get(LEASES, attempt.lease_name, provider_namespace(attempt.terms.provider))
        except NotFoundError:
            return False
        return True

    async def close(self, attempt: Attempt, outcome: str) -> Attempt:
        """End an attempt in the books."""
        try:
            return await self._ledger.end_attempt(attempt.lease_name, outcome, self._clock.now())
        finally:
            self._moved(attempt.terms.tenant)

    async def stop(self, attempt: Attempt, lease: ComputeLease, reason: str) -> tuple[Attempt, ComputeLease]:
        """Stop an open attempt: first in the ledger, where it stays, then on the lease, where the agent reads it.

        A stop that is only on the lease (set by hand) is taken over into the ledger.
        """
        attempt, lease, failed = await self._in_line(attempt, lease, reason)
        if failed is not None:
            raise failed
        return attempt, lease

    async def _in_line(
        self, attempt: Attempt, lease: ComputeLease, reason: str
    ) -> tuple[Attempt, ComputeLease, KubeError | None]:
        """The attempt and its lease with the stop that is due, if any, and the error of a lease that was not written.

        A lease that others have filled so far that its agent may soon be unable to write is relieved of that.
        """
        try:
            if (reason or _stops(attempt, lease)) and not lease.status.ended:
                # One that is only on the lease, set by hand or by an older release, is taken over as it stands there.
                since = lease.spec.stop_requested_at
                attempt = await self._keep_stop(
                    attempt, lease.spec.stop_reason or reason or ConditionReason.STOPPED.value, since
                )
                if lease.spec.desired == "Run" and attempt.stop is not None:
                    lease = await self._leases.stop(lease, attempt.stop)
            if foreign_bytes(lease.metadata) > HEADROOM // 2:
                lease = await self._leases.relieve(lease)
        except KubeError as error:
            return attempt, lease, error
        return attempt, lease, None

    async def _shed(self, attempt: Attempt, lease: ComputeLease) -> ComputeLease:
        """A lease that failed, and stays while its job is tried elsewhere, without its workload: nobody needs it."""
        if attempt.is_open or attempt.outcome == SUCCEEDED or lease.spec.workload is None:
            return lease
        try:
            return await self._leases.remove_workload(lease)
        except KubeError as error:
            log.debug("lease %s keeps its workload: %s", lease.metadata.name, error)
            return lease

    async def _keep_stop(self, attempt: Attempt, reason: str, since: datetime | None = None) -> Attempt:
        """The attempt with its stop: as of `since`, if that has been, else as of now."""
        if attempt.stop is not None:
            return attempt
        # Whole seconds, as the lease shows it.
        now = self._clock.now().replace(microsecond=0)
        stopped = await self._ledger.stop_attempt(attempt.lease_name, reason, min(now, since or now))
        self._metrics.evicted(reason)
        return stopped

    async def bury(self, entry: AttemptUsage, stop: Stop) -> ComputeLease:
        """The lease of an attempt that has ended, made again to have its member cleared of what is left of it."""
        attempt = replace(entry.attempt, stop=entry.attempt.stop or stop)
        return await self._leases.create(remade_lease(attempt, None, sequence_base=entry.sequence))

    async def collect(self, lease: ComputeLease, *, deserted: bool) -> None:
        """Remove a lease whose job is gone, once its member is cleared or `deserted` (has no provider any more).

        One that was never told to stop is told now; one that the ledger does not know is left alone.
        """
        stopped = lease.spec.desired == "Stop"
        if stopped and not (deserted or is_cleared(lease)):
            return
        entry = await self._ledger.lease_usage(lease.metadata.name)
        if entry is None or entry.attempt.is_open or await self._job_exists(entry.attempt):
            return
        if not stopped:
            await self._leases.stop(lease, Stop(JOB_GONE, self._clock.now()))
            return
        await self._leases.delete(lease)

    async def start(self, job: ComputeJob, attempt: Attempt, devices: DeviceRequest) -> ComputeLease:
        """The first lease of an attempt: for the pass that opened it, and for no other.

        Raises InvalidResourceError for a job that is not the one that the attempt was agreed for.
        """
        return await self._leases.create(first_lease(job, attempt, devices))

    async def _remake(self, entry: AttemptUsage, job: ComputeJob | None) -> ComputeLease:
        """The lease object made again; whatever happened to the one before, it starts nothing."""
        lease = await self._leases.create(remade_lease(entry.attempt, job, sequence_base=entry.sequence))
        log.warning("lease %s of %s was missing: made again", lease.metadata.name, lease.spec.job.name)
        return lease


def _stops(attempt: Attempt, lease: ComputeLease) -> bool:
    """Whether the ledger and the lease do not both know of a stop that one of them knows of."""
    return (attempt.stop is not None) != (lease.spec.desired == "Stop")


def is_cleared(lease: ComputeLease) -> bool:
    """Whether the agent has confirmed that nothing of a lease that was told to stop is left on its member."""
    return lease.status.ended and lease.status.observed_generation >= lease.metadata.generation


def wants_agent(lease: ComputeLease) -> bool:
    """Whether something is left to do for the agent: to meter, to stop, or to clear away what was told to stop."""
    return not lease.status.ended or (lease.spec.desired == "Stop" and not is_cleared(lease))
