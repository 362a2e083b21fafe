"""Follows open attempts: keeps their lease there, stops it when it must stop, bills its usage, closes the books."""

from __future__ import annotations

import logging
from dataclasses import replace

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import (
    JOB_UID_LABEL,
    LEASE_LABEL,
    PROVIDER_LABEL,
    TENANT_LABEL,
    ComputeLease,
    ComputeLeaseSpec,
    JobRef,
)
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.domain.books import Attempt, AttemptRequest, LeaseUsage
from fedgpu_operator.domain.decision import Verdict
from fedgpu_operator.domain.money import format_usd
from fedgpu_operator.domain.settlement import Pair
from fedgpu_operator.errors import AlreadyExistsError, ConflictError, InvalidResourceError, NotFoundError
from fedgpu_operator.hub.billing import UsageBiller
from fedgpu_operator.hub.jobfacts import SUPERSEDED, UNFUNDED, JobFacts, outcome_of, stop_reason
from fedgpu_operator.hub.opening import Opener
from fedgpu_operator.hub.render import member_namespace, provider_namespace, render_workload
from fedgpu_operator.hub.signatures import UsageVerifier
from fedgpu_operator.ports import Clock, Kube, Ledger, Metrics, ResourceType, read_back

log = logging.getLogger(__name__)

LEASES = ResourceType.of(ComputeLease.info)
JOBS = ResourceType.of(ComputeJob.info)
JOB_GONE = "JobGone"


class AttemptKeeper:
    """The only one that opens, stops, bills and ends attempts."""

    def __init__(self, kube: Kube, ledger: Ledger, clock: Clock, metrics: Metrics, verifier: UsageVerifier) -> None:
        self._kube = kube
        self._ledger = ledger
        self._clock = clock
        self._biller = UsageBiller(kube, ledger, clock, metrics, verifier)
        self._opener = Opener(ledger, clock)

    async def usage(self, job_uid: str) -> tuple[LeaseUsage, ...]:
        """Every attempt of a job with its newest billed usage, oldest first."""
        return (await self._ledger.histories([job_uid])).get(job_uid, ())

    async def begin(self, facts: JobFacts, chosen: Verdict, wallets: Pair) -> tuple[JobFacts, Attempt]:
        """Open an attempt on these terms; repeating it after a crash gives the same attempt. It has no lease yet.

        The request is named by the attempt that came before, so two passes over the same facts ask for one. Raises
        InvalidResourceError, with no attempt opened, for a job that cannot be rendered, and ConflictError where that
        attempt has ended since: what is known of the job is to be forgotten. The facts have the attempt.
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
        lease_object(job, Attempt(request, 1, now), sequence_base=0)
        attempt, fresh = await self._opener.open(request)
        if attempt.ended_at is not None:
            raise ConflictError(f"attempt {attempt.attempt} of job {job.key} has ended: it was decided on older facts")
        # One that was there already, from a life before this one, may have usage that the facts do not know.
        usage = (*facts.usage, LeaseUsage(attempt, 0, 0)) if fresh else await self.usage(job.metadata.uid)
        return replace(facts, usage=usage), attempt

    async def follow(
        self, facts: JobFacts, attempt: Attempt, provider: GPUProvider | None, *, funded: bool = True
    ) -> JobFacts:
        """Bring an open attempt at that provider and its lease into line; returns the facts as they are then.

        `funded` is whether there is still money for it.
        """
        lease = facts.lease
        if lease is None:
            return await self._without_lease(facts, attempt)
        now = self._clock.now()
        reason = stop_reason(facts.job, now, funded=funded)
        if reason and lease.spec.desired == "Run" and not lease.status.ended:
            lease = await self.stop(lease, reason)
        complete = await self._biller.bill(attempt, lease, provider, facts.job)
        if complete and lease.status.ended and lease.status.usage.final:
            attempt = await self._ledger.end_attempt(lease.metadata.name, outcome_of(lease), now)
        entry, usage = facts.usage[-1], lease.status.usage
        if entry.sequence < lease.spec.sequence_base + usage.sequence and (usage.gpu_seconds or usage.final):
            newest = await self._ledger.last_usage(lease.metadata.name)
            if newest is not None:
                entry = LeaseUsage(attempt, newest.gpu_seconds, newest.sequence)
        return replace(facts, lease=lease, usage=(*facts.usage[:-1], replace(entry, attempt=attempt)))

    async def _without_lease(self, facts: JobFacts, attempt: Attempt) -> JobFacts:
        """Make the lease of an open attempt again, or close an attempt that never had one.

        Asked by name, both of them: what was read may be older than what is there, and a job's status that froze its
        spec, or a lease, that merely was not seen yet must not end an attempt that runs.
        """
        meta = facts.job.metadata
        job = read_back(self._kube, ComputeJob, await self._kube.get(JOBS, meta.name, meta.namespace))
        if job.metadata.uid != meta.uid:
            raise ConflictError(f"job {facts.job.key} is another object by now")
        facts, placement = replace(facts, job=job), job.status.placement
        usage = await self.usage(meta.uid)
        if not usage or usage[-1].attempt.lease_name != attempt.lease_name or not usage[-1].attempt.is_open:
            # What was remembered is older than the books, and what has ended there must not run a second time.
            return replace(facts, usage=usage)
        if placement is not None and placement.lease == attempt.lease_name:
            return replace(facts, lease=await self.dispatch(job, attempt, facts.usage[-1].sequence))
        try:
            found = await self._kube.get(LEASES, attempt.lease_name, provider_namespace(attempt.terms.provider))
        except NotFoundError:
            # The process died before the job's status froze its spec: no lease was ever made.
            ended = replace(facts.usage[-1], attempt=await self.close(attempt, SUPERSEDED))
            return replace(facts, usage=(*facts.usage[:-1], ended))
        return replace(facts, lease=read_back(self._kube, ComputeLease, found))

    async def wind_up(
        self, entry: LeaseUsage, lease: ComputeLease | None, provider: GPUProvider | None, *, funded: bool = True
    ) -> None:
        """Bill and close an open attempt whose job object is gone or cannot be read.

        Where the job, or the money for it, is gone, it is stopped first.

        Without the job its lease cannot be made again either: then nothing more can be metered and it is closed as
        it stands.
        """
        attempt = entry.attempt
        exists, complete = await self._job_exists(attempt), True
        if lease is not None:
            if not (exists and funded) and lease.spec.desired == "Run" and not lease.status.ended:
                lease = await self.stop(lease, UNFUNDED if exists else JOB_GONE)
            complete = await self._biller.bill(attempt, lease, provider, None)
        ended = complete and lease is not None and lease.status.ended and lease.status.usage.final
        if ended or (lease is None and not exists and not await self._lease_exists(attempt)):
            outcome = JOB_GONE if lease is None else outcome_of(lease)
            await self._ledger.end_attempt(attempt.lease_name, outcome, self._clock.now())

    async def _job_exists(self, attempt: Attempt) -> bool:
        """Asked by name: an object that merely could not be read must not look like one that is gone."""
        try:
            job = await self._kube.get(JOBS, attempt.terms.job_name, attempt.terms.tenant)
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
        """End an attempt that never had a lease."""
        return await self._ledger.end_attempt(attempt.lease_name, outcome, self._clock.now())

    async def stop(self, lease: ComputeLease, reason: str) -> ComputeLease:
        """Set the tombstone; the agent ends the workload and, where it has ended, clears it away."""
        stamp = self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        spec = {"desired": "Stop", "stopReason": reason, "stopRequestedAt": stamp}
        patch: JSONObject = {"metadata": lease.metadata.guard(), "spec": spec}
        written = await self._kube.patch(LEASES, lease.metadata.name, lease.metadata.namespace, patch)
        log.info("lease %s of %s stops: %s", lease.metadata.name, lease.spec.job.name, reason)
        return read_back(self._kube, ComputeLease, written)

    async def remove(self, lease: ComputeLease) -> None:
        """Delete the object of an ended attempt; its usage is in the ledger."""
        await self._kube.delete(LEASES, lease.metadata.name, lease.metadata.namespace, uid=lease.metadata.uid)

    async def dispatch(self, job: ComputeJob, attempt: Attempt, sequence_base: int) -> ComputeLease:
        """The attempt's lease, made if it is not there; raises InvalidResourceError where the job is another now.

        `sequence_base` is the newest sequence of it that is billed already. Raises ConflictError for an attempt that
        has ended: it would run unpaid.
        """
        if not attempt.is_open:
            raise ConflictError(f"attempt {attempt.attempt} of {job.key} has ended")
        obj = lease_object(job, attempt, sequence_base=sequence_base)
        try:
            written = await self._kube.create(LEASES, obj)
        except AlreadyExistsError:
            written = await self._kube.get(LEASES, attempt.lease_name, obj["metadata"]["namespace"])
        return read_back(self._kube, ComputeLease, written)


def lease_object(job: ComputeJob, attempt: Attempt, *, sequence_base: int) -> JSONObject:
    """The ComputeLease of an attempt; made from identity and the ledger's terms alone, so it can be made again."""
    terms = attempt.terms
    if (job.gpus, job.billable_limit) != (terms.gpus, terms.run_limit):
        text = f"the job asks for {job.gpus} GPUs and {job.billable_limit} s, attempt {attempt.attempt} was agreed for "
        raise InvalidResourceError("TermsChanged", f"{text}{terms.gpus} GPUs and {terms.run_limit} s")
    tenant_namespace = member_namespace(job.metadata.namespace)
    spec = ComputeLeaseSpec(
        job=JobRef(namespace=job.metadata.namespace, name=job.metadata.name, uid=job.metadata.uid),
        attempt=attempt.attempt,
        fencing_epoch=attempt.attempt,
        provider=terms.provider,
        product=terms.product,
        replicas=job.spec.replicas,
        gpus_per_replica=job.spec.gpu.count,
        price_per_gpu_hour=format_usd(terms.price),
        run_limit_seconds=job.run_limit,
        grace_seconds=job.spec.template.termination_grace_period_seconds,
        sequence_base=sequence_base,
        member_namespace=tenant_namespace,
        tenant_wallet=terms.tenant_wallet,
        provider_wallet=terms.provider_wallet,
        workload=render_workload(
            job,
            lease_name=attempt.lease_name,
            member_namespace=tenant_namespace,
            provider=terms.provider,
            product=terms.product,
            run_limit_seconds=job.run_limit,
        ),
    )
    return {
        "apiVersion": LEASES.api_version,
        "kind": LEASES.kind,
        "metadata": {
            "name": attempt.lease_name,
            "namespace": provider_namespace(terms.provider),
            "labels": {
                LEASE_LABEL: attempt.lease_name,
                PROVIDER_LABEL: terms.provider,
                TENANT_LABEL: job.metadata.namespace,
                JOB_UID_LABEL: job.metadata.uid,
            },
        },
        "spec": spec.to_wire(),
    }
