"""Checks the receipts that the hub proposes against the provider's own signed usage, and signs those that hold."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from eth_utils.address import to_checksum_address

from fedgpu_operator.agent.report import Reporter
from fedgpu_operator.agent.signing import Signing
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.providerreport import ProposedReceipt, SignedReceipt
from fedgpu_operator.domain.money import SECONDS_PER_HOUR, accrue, format_usd, parse_usd
from fedgpu_operator.metering import tolerance
from fedgpu_operator.ports import Clock
from fedgpu_operator.settlement.typeddata import receipt

log = logging.getLogger(__name__)

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
