"""Bills what a lease used: the member's signed claim against the hub's own bound; what is in dispute goes apart."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timedelta
from typing import Final

from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.api.reasons import ConditionReason
from fedgpu_operator.domain.attempts import Attempt
from fedgpu_operator.domain.ledger import UsageDispute, UsageDisputeState
from fedgpu_operator.domain.usage import UsageReading
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.hub.services.signatures import SignatureVerdict, UsageVerifier
from fedgpu_operator.hub.services.writes import UNSIGNED_SINCE, Writers
from fedgpu_operator.metering import HubObservation, bill, disputed, tolerance
from fedgpu_operator.ports import Clock, Metrics, UsageBook
from fedgpu_operator.settlement.evidence import instant, usage_detail

log = logging.getLogger(__name__)


SIGNATURE_PATIENCE: Final = timedelta(minutes=10)
"""How long an ended lease waits for the signature under its last reading: a key is rotated in that time, and a tenant's
money is not held for ever."""


class UsageBiller:
    """The only one that writes usage into the ledger."""

    def __init__(
        self, writers: Writers, ledger: UsageBook, clock: Clock, metrics: Metrics, verifier: UsageVerifier
    ) -> None:
        self._jobs, self._leases = writers.jobs, writers.leases
        self._ledger = ledger
        self._clock = clock
        self._metrics = metrics
        self._verifier = verifier

    async def bill(
        self, attempt: Attempt, lease: ComputeLease, provider: GPUProvider | None, job: ComputeJob | None
    ) -> bool:
        """Bring the ledger up to the lease's reading; False while that still waits for its signature.

        Whatever is payable is recorded; what is claimed beyond the tolerance is one open dispute per lease, told once
        on the lease and on its job.
        """
        try:
            reading = lease.status.usage.to_domain()
        except InvalidResourceError as error:
            if given_up := await self._given_up(lease):
                log.warning("lease %s is closed with what is billed: %s", lease.metadata.name, error)
            return given_up
        if reading is None or (not reading.gpu_seconds and not lease.status.usage.final):
            # Nothing has run yet: there is nothing to keep.
            return True
        last = await self._ledger.last_usage(attempt.lease_name)
        sequence = lease.spec.sequence_base + reading.sequence
        if last is not None and sequence <= last.sequence:
            return True
        before = last.gpu_seconds if last is not None else 0
        verdict = self._verifier.judge(lease, provider)
        if not verdict.billable:
            return await self._unsigned(attempt, lease, reading, verdict, before, job)
        hub = self._observation(attempt, lease, before)
        billed = bill(reading, hub)
        # First what stays open, then the record: once a sequence is in the books nobody looks at it again.
        if disputed(reading.gpu_seconds, billed.gpu_seconds, hub.gpus):
            await self._dispute(lease, reading, hub, billed.gpu_seconds, str(billed.why), job)
        else:
            await self._agree(lease)
        # A reading dated ahead of us would date receipts ahead as well; the signed instant stays in the evidence.
        seen_at = min(reading.observed_at, hub.observed_at)
        await self._ledger.record_usage(
            attempt.lease_name, sequence, billed.gpu_seconds, seen_at, signed=verdict.signed
        )
        self._metrics.billed(attempt.terms.provider, billed.gpu_seconds - before)
        return True

    def _observation(self, attempt: Attempt, lease: ComputeLease, before: int) -> HubObservation:
        return HubObservation(
            created_at=attempt.created_at,
            observed_at=self._clock.now(),
            gpus=attempt.terms.gpus,
            run_limit=attempt.terms.run_limit,
            stopped_at=attempt.stop.at if attempt.stop is not None else lease.spec.stop_requested_at,
            grace=lease.spec.grace_seconds,
            billed=before,
        )

    async def _unsigned(
        self,
        attempt: Attempt,
        lease: ComputeLease,
        reading: UsageReading,
        verdict: SignatureVerdict,
        before: int,
        job: ComputeJob | None,
    ) -> bool:
        """Nothing is billed. An ended lease is given up after a while, and what it claims kept as a dispute."""
        log.debug("provider %s: %s: %s", attempt.terms.provider, verdict.word, verdict.message)
        if not await self._given_up(lease):
            return False
        if reading.gpu_seconds > before:
            hub = self._observation(attempt, lease, before)
            await self._dispute(lease, reading, hub, before, verdict.word, job)
        return True

    async def _given_up(self, lease: ComputeLease) -> bool:
        """Whether the lease has ended and waited long enough, by the hub's clock, for a reading that can be billed."""
        if not (lease.status.ended and lease.status.usage.final):
            return False
        now = self._clock.now()
        since = _instant(lease.metadata.annotations.get(UNSIGNED_SINCE, ""))
        if since is not None and since <= now:
            return now >= since + SIGNATURE_PATIENCE
        await self._leases.note_unsigned(lease)
        return False

    async def _dispute(
        self,
        lease: ComputeLease,
        reading: UsageReading,
        hub: HubObservation,
        payable: int,
        why: str,
        job: ComputeJob | None,
    ) -> None:
        name, claimed = lease.metadata.name, reading.gpu_seconds
        sequence = lease.spec.sequence_base + reading.sequence
        held = await self._open_disputes(name)
        grown = (claimed - payable) - sum(dispute.claimed - dispute.payable for dispute in held)
        quiet = abs(grown) <= tolerance(claimed, hub.gpus) and not lease.status.usage.final
        if any(quiet or dispute.sequence == sequence for dispute in held):
            return
        now = self._clock.now()
        if not held:
            log.warning("lease %s: the member claims %d GPU-seconds, %d are payable (%s)", name, claimed, payable, why)
            # Told before it is kept: a process that dies in between tells it again, under the same Event's name.
            await self._tell(lease, job, why)
        evidence = _evidence(lease, reading, hub)
        await self._ledger.dispute_usage(UsageDispute(name, sequence, claimed, payable, why, evidence, now))

    async def _tell(self, lease: ComputeLease, job: ComputeJob | None, why: str) -> None:
        text = (
            f"the member claims more usage of lease {lease.metadata.name} than is payable ({why}); what both sides "
            "agree on is billed, the rest is in dispute"
        )
        await self._leases.event(lease, "Warning", ConditionReason.USAGE_DISPUTED, text)
        if job is not None:
            await self._jobs.event(job, "Warning", ConditionReason.USAGE_DISPUTED, text)

    async def _open_disputes(self, lease_name: str) -> list[UsageDispute]:
        """Of all open ones, which the ledger answers from memory: asked for every reading of every lease."""
        return [each for each in await self._ledger.usage_disputes(open_only=True) if each.lease_name == lease_name]

    async def _agree(self, lease: ComputeLease) -> None:
        """A later reading found the claim payable after all: a member's clock that ran ahead was caught up with."""
        for held in await self._open_disputes(lease.metadata.name):
            note = "a later reading of the same lease is payable as claimed"
            await self._ledger.rule_usage_dispute(
                held.lease_name, held.sequence, UsageDisputeState.GRANTED, note, self._clock.now()
            )


def _instant(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def _evidence(lease: ComputeLease, reading: UsageReading, hub: HubObservation) -> str:
    """Both readings as JSON: the member's with its signature, the hub's with every bound that it applied."""
    member = {
        "sequence": lease.spec.sequence_base + reading.sequence,
        "gpuSeconds": reading.gpu_seconds,
        "observedAt": instant(reading.observed_at),
        "detail": usage_detail(reading),
        "signature": lease.status.usage.signature,
    }
    own = {
        "createdAt": instant(hub.created_at),
        "observedAt": instant(hub.observed_at),
        "stoppedAt": instant(hub.stopped_at),
        "graceSeconds": hub.grace,
        "runLimitSeconds": hub.run_limit,
        "gpus": hub.gpus,
        "billedBefore": hub.billed,
    }
    return json.dumps({"member": member, "hub": own}, sort_keys=True, separators=(",", ":"))
