"""The provider's signature: over the usage of its leases, and over receipts that agree with it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from eth_utils.address import to_checksum_address

from fedgpu_operator.agent.report import Reporter
from fedgpu_operator.api.computelease import ComputeLease, LeaseUsage
from fedgpu_operator.api.providerreport import ProposedReceipt, SignedReceipt
from fedgpu_operator.domain.money import SECONDS_PER_HOUR, accrue, format_usd, parse_usd
from fedgpu_operator.domain.usage import UsageReading
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.metering import tolerance
from fedgpu_operator.ports import Clock, TypedSigner
from fedgpu_operator.settlement.evidence import usage_statement
from fedgpu_operator.settlement.typeddata import SigningDomain, TypedData, escrow_domain, hub_domain, receipt, signed_by

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Signing:
    """With what a provider signs: its key, its payout wallet, and the escrow that both are meant for."""

    signer: TypedSigner
    payout: str
    chain_id: int
    escrow: str

    @property
    def usage_domain(self) -> SigningDomain:
        """Of usage records."""
        return hub_domain(self.chain_id, self.escrow)

    @property
    def receipt_domain(self) -> SigningDomain:
        """Of receipts."""
        return escrow_domain(self.chain_id, self.escrow)


def shown(usage: LeaseUsage) -> UsageReading | None:
    """The reading that a lease shows; None where it shows none, or one that nobody can have taken.

    Whatever stands in a status: its workload can still be stopped.
    """
    try:
        return usage.to_domain()
    except InvalidResourceError as error:
        log.warning("a reading is left out: %s", error)
        return None


class UsageSigner:
    """Signs usage, and knows which leases carry a signature of this very key already."""

    def __init__(self, signing: Signing) -> None:
        self._signing = signing
        self._sound: dict[str, str] = {}
        """Version by lease UID that was found to be signed: a look at a quiet lease costs no arithmetic."""

    async def signed(self, lease: ComputeLease, usage: LeaseUsage) -> LeaseUsage:
        """The usage with this key's signature; as it is before the first reading."""
        statement = self._statement(lease, usage)
        if statement is None:
            return usage
        signature = await self._signing.signer.sign_typed(statement)
        return usage.model_copy(update={"signature": "0x" + signature.hex()})

    def lacks(self, lease: ComputeLease) -> bool:
        """Whether the usage that the lease shows has no signature of this key: it had none, or it was another."""
        meta = lease.metadata
        if self._sound.get(meta.uid) == meta.resource_version:
            return False
        statement, signature = self._statement(lease, lease.status.usage), lease.status.usage.signature
        if statement is None:
            return False
        if not signature or not signed_by(self._signing.signer.address, statement.digest, signature):
            return True
        self._sound[meta.uid] = meta.resource_version
        return False

    def forget(self, keep: Collection[str]) -> None:
        """Drop what is known of all leases but those with these UIDs."""
        self._sound = {uid: version for uid, version in self._sound.items() if uid in keep}

    def _statement(self, lease: ComputeLease, usage: LeaseUsage) -> TypedData | None:
        reading = shown(usage)
        if reading is None:
            return None
        sequence = lease.spec.sequence_base + reading.sequence
        return usage_statement(self._signing.usage_domain, lease.metadata.name, sequence, reading)


AHEAD_SECONDS: Final = 60
"""How far a receipt's end may lie in the future: an exit has to wait from there, so a later one would cost time."""


class ReceiptDesk:
    """Signs for one provider.

    What it signed since it began is its memory: it signs nothing lower. A lower receipt would cost nothing all the
    same, since the escrow and the ledger go by the highest.
    """

    def __init__(self, provider: str, reporter: Reporter, signing: Signing, clock: Clock) -> None:
        self._provider = provider
        self._reporter = reporter
        self._signing = signing
        self._clock = clock
        self._signed: dict[str, SignedReceipt] = {}
        self._highest: dict[str, int] = {}
        self._refused: dict[str, str] = {}

    async def serve(self, leases: Sequence[ComputeLease]) -> None:
        """Sign what can be signed of the proposals; one that cannot waits, and the log says why."""
        now, signed, refused = self._clock.now(), {}, {}
        for proposal in await self._reporter.proposals():
            why = objection(proposal, leases, payout=self._signing.payout, now=now)
            why = why or self._below(proposal)
            if why:
                refused[proposal.tenant] = why
            else:
                signed[proposal.tenant] = await self._sign(proposal)
        self._tell(refused)
        self._signed = signed
        await self._reporter.sign(list(signed.values()))

    def _below(self, proposal: ProposedReceipt) -> str:
        highest = self._highest.get(proposal.tenant.lower(), 0)
        if parse_usd(proposal.cumulative) >= highest:
            return ""
        return f"{proposal.cumulative} USD is less than the {format_usd(highest)} USD that were signed before"

    async def _sign(self, proposal: ProposedReceipt) -> SignedReceipt:
        statement = receipt(self._signing.receipt_domain, proposal.to_domain())
        digest, known = "0x" + statement.digest.hex(), self._signed.get(proposal.tenant)
        if known is not None and known.digest == digest:
            return known
        signature = await self._signing.signer.sign_typed(statement)
        self._highest[proposal.tenant.lower()] = parse_usd(proposal.cumulative)
        return SignedReceipt(
            tenant=proposal.tenant, provider=proposal.provider, digest=digest, signature="0x" + signature.hex()
        )

    def _tell(self, refused: dict[str, str]) -> None:
        for tenant, why in refused.items():
            if self._refused.get(tenant) != why:
                log.warning("provider %s does not sign the receipt of tenant %s: %s", self._provider, tenant, why)
        self._refused = refused


def objection(proposal: ProposedReceipt, leases: Iterable[ComputeLease], *, payout: str, now: datetime) -> str:
    """Why the provider must not sign the proposal; empty where it may.

    It must be for the provider's own payout wallet, end not in the future, and say no less than the provider's own
    readings of the ended leases between these wallets that the hub still shows and that ended by then: less what two
    honest readings may differ by, and less what the hub admits to hold in dispute.
    """
    if proposal.provider.lower() != payout.lower():
        return f"it is for wallet {proposal.provider}, not for our payout wallet {to_checksum_address(payout)}"
    if proposal.period_end > now.timestamp() + AHEAD_SECONDS:
        return f"its end {proposal.period_end} lies in the future"
    pair = (proposal.tenant.lower(), proposal.provider.lower())
    own = sum(_least(lease) for lease in leases if _counts(lease, pair, proposal.period_end)) // SECONDS_PER_HOUR
    admitted = parse_usd(proposal.cumulative) + parse_usd(proposal.disputed)
    if own > admitted:
        return f"our own readings come to {format_usd(own)} USD, it says {format_usd(admitted)} USD"
    return ""


def _counts(lease: ComputeLease, pair: tuple[str, str], period_end: int) -> bool:
    usage, spec = lease.status.usage, lease.spec
    return (
        (spec.tenant_wallet.lower(), spec.provider_wallet.lower()) == pair
        and usage.final
        and usage.observed_at is not None
        and usage.observed_at.timestamp() <= period_end
    )


def _least(lease: ComputeLease) -> int:
    """µUSD·s/h that the hub must have billed of a lease whose reading it found honest."""
    seconds = lease.status.usage.gpu_seconds
    seconds -= tolerance(seconds, lease.spec.gpus)
    return accrue(parse_usd(lease.spec.price_per_gpu_hour), max(0, seconds))
