"""The loops over ProviderReports: which receipts both sides sign, and which vantages the owner probes."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from fedgpu_operator.api.base import MAX_DECIMAL_USD
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.api.providerreport import MAX_RECEIPTS, ProposedReceipt, ProviderReport, VantageRef
from fedgpu_operator.domain.attempts import PairLease, PairTotal
from fedgpu_operator.domain.ledger import UsageDispute
from fedgpu_operator.domain.money import SECONDS_PER_HOUR, MicroUSD, accrue, format_usd
from fedgpu_operator.domain.settlement import Pair, Receipt
from fedgpu_operator.domain.vantage import Vantage
from fedgpu_operator.errors import ChainError
from fedgpu_operator.hub.services.hubstate import load_all
from fedgpu_operator.hub.services.signatures import accepted_signer
from fedgpu_operator.hub.services.wallets import ProofBook
from fedgpu_operator.hub.services.workloads import provider_namespace
from fedgpu_operator.hub.services.writes import Writers, one_of_many
from fedgpu_operator.metering import receipt_cumulative
from fedgpu_operator.ports import Clock, Kube, Ledger, TypedSigner
from fedgpu_operator.settlement.evidence import usage_root
from fedgpu_operator.settlement.typeddata import SigningDomain, receipt, signed_by

log = logging.getLogger(__name__)


class SignatureRule(Protocol):
    """The part of ports.Escrow that is needed here."""

    async def accepts_signature(self, account: str, digest: bytes, signature: bytes) -> bool: ...


@dataclass(frozen=True, slots=True)
class Desk:
    """Where the receipts of one payout wallet are signed: one report, and the signer that was accepted."""

    report: ProviderReport
    wallet: str
    signer: str


class ReceiptLoop:
    """Load → take what is signed → propose what is due. The hub alone writes a report's spec, the agent its status.

    A death at any point costs nothing: a proposal is made from the books, a signature is taken again, and the ledger
    keeps the same receipt once. `meter` is the meter's key, which is not the settler's; `interval` is an epoch.
    A receipt that the escrow refuses now is kept all the same: what stands in its way can be undone, and what was not
    signed cannot be had later. `rules` is how the escrow judges signatures.
    """

    def __init__(
        self,
        kube: Kube,
        writers: Writers,
        ledger: Ledger,
        clock: Clock,
        *,
        proofs: ProofBook,
        meter: TypedSigner,
        rules: SignatureRule,
        domain: SigningDomain,
        interval: float,
    ) -> None:
        self._kube = kube
        self._writer = writers.reports
        self._ledger = ledger
        self._clock = clock
        self._proofs = proofs
        self._meter = meter
        self._rules = rules
        self._meter_refused = False
        self._domain = domain
        self._interval = timedelta(seconds=interval)

    async def pass_once(self) -> float | None:
        """One pass over all reports."""
        providers = await load_all(self._kube, GPUProvider)
        reports = await load_all(self._kube, ProviderReport)
        payouts = await self._proofs.payouts(providers)
        desks = _desks(providers, reports, payouts)
        books: defaultdict[str, dict[Pair, PairBook]] = defaultdict(dict)
        for pair, book in pair_books(await self._ledger.pair_totals()).items():
            books[pair[1]][pair] = book
        newest: defaultdict[str, dict[Pair, Receipt]] = defaultdict(dict)
        for kept in await self._ledger.receipts():
            newest[kept.receipt.provider][kept.pair] = kept.receipt
        for report in reports:
            with one_of_many(report):
                desk = desks.get(report.spec.provider)
                if desk is None or desk.report is not report:
                    await self._writer.propose_receipts(report, [])
                else:
                    await self._serve(desk, books[desk.wallet], newest[desk.wallet])
        return None

    async def _serve(self, desk: Desk, books: Mapping[Pair, PairBook], newest: dict[Pair, Receipt]) -> None:
        await self._take(desk, newest)
        now = self._clock.now()
        waiting: dict[Pair, ProposedReceipt] = {}
        for proposal in desk.report.spec.receipts:
            pair = proposal.to_domain().tenant, proposal.to_domain().provider
            if pair in books and still_stands(proposal, books[pair], newest.get(pair), now, self._interval):
                waiting[pair] = proposal
        asked = next_pairs(waiting, books, newest, now, self._interval)
        disputes = await self._ledger.usage_disputes(open_only=True) if asked else ()
        for pair in asked:
            made = draft(pair, await self._ledger.seal_pair(pair), disputes, newest.get(pair))
            if made is not None:
                waiting[pair] = made
        await self._writer.propose_receipts(desk.report, list(waiting.values()))

    async def _take(self, desk: Desk, newest: dict[Pair, Receipt]) -> None:
        """Keep every receipt that the provider has signed since, with the meter's signature beside the provider's."""
        signatures = {signed.digest: signed.signature for signed in desk.report.status.receipts}
        for proposal in desk.report.spec.receipts:
            said = proposal.to_domain()
            statement = receipt(self._domain, said)
            signature = signatures.get("0x" + statement.digest.hex())
            pair = said.tenant, said.provider
            if signature is None or said.provider != desk.wallet:
                continue
            if pair in newest and newest[pair].cumulative >= said.cumulative:
                continue
            if not await self._signed(desk.signer, statement.digest, _raw(signature)):
                log.warning(
                    "provider %s: the receipt of tenant %s is not signed by %s",
                    desk.report.spec.provider,
                    said.tenant,
                    desk.signer,
                )
                continue
            countersigned = await self._meter.sign_typed(statement)
            await self._watch_meter(statement.digest, countersigned)
            await self._ledger.append_receipt(said, _raw(signature), countersigned, self._clock.now())
            newest[pair] = said

    async def _signed(self, signer: str, digest: bytes, signature: bytes) -> bool:
        """By the key of that account, or by its code (ERC-1271); the chain is asked in the second case alone."""
        if signed_by(signer, digest, signature):
            return True
        try:
            return await self._rules.accepts_signature(signer, digest, signature)
        except ChainError as error:
            log.info("a signature of %s cannot be judged now: %s", signer, error)
            return False

    async def _watch_meter(self, digest: bytes, signature: bytes) -> None:
        """Find out early that the escrow refuses what the meter's key signs, as it does after an EIP-7702 delegation.

        Then it refuses every receipt of this hub.
        """
        try:
            refused = not await self._rules.accepts_signature(self._meter.address, digest, signature)
        except ChainError as error:
            log.info("the meter's signature cannot be judged now: %s", error)
            return
        if refused and not self._meter_refused:
            log.error(
                "the escrow refuses what the meter %s signs, since its account has code: no receipt of this hub counts "
                "until the delegation is undone (EIP-7702: authorize the zero address)",
                self._meter.address,
            )
        self._meter_refused = refused


def _desks(providers: list[GPUProvider], reports: list[ProviderReport], payouts: Mapping[str, str]) -> dict[str, Desk]:
    """By provider: one per payout wallet, that of the first provider in the alphabet where several share it.

    Only a report in the provider's own namespace counts, since nobody but its agent writes there.
    """
    by_name = {provider.metadata.name: provider for provider in providers}
    desks: dict[str, Desk] = {}
    taken: set[str] = set()
    for report in sorted(reports, key=lambda report: report.spec.provider):
        name = report.spec.provider
        wallet, signer = payouts.get(name, ""), accepted_signer(by_name.get(name))
        own = report.metadata.namespace == provider_namespace(name)
        if own and wallet and signer and wallet not in taken:
            taken.add(wallet)
            desks[name] = Desk(report, wallet, signer)
    return desks


def _raw(signature: str) -> bytes:
    return bytes.fromhex(signature.removeprefix("0x"))


@dataclass(frozen=True, slots=True)
class PairBook:
    """What the ledger holds of a pair of wallets: `cumulative` µUSD, and how many of its attempts are open."""

    cumulative: MicroUSD
    open_attempts: int


def pair_books(totals: Iterable[PairTotal]) -> dict[Pair, PairBook]:
    """By pair of wallets, over all namespaces and provider objects that share them."""
    numerators: dict[Pair, int] = {}
    running: dict[Pair, int] = {}
    for total in totals:
        if total.tenant_wallet and total.provider_wallet:
            pair = (total.tenant_wallet, total.provider_wallet)
            numerators[pair] = numerators.get(pair, 0) + total.numerator
            running[pair] = running.get(pair, 0) + total.open_attempts
    return {pair: PairBook(receipt_cumulative([numerators[pair]]), running[pair]) for pair in numerators}


def is_due(book: PairBook, last: Receipt | None, now: datetime, interval: timedelta) -> bool:
    """Whether a pair wants a new receipt after `last`: something new is owed, and it is time or nothing runs."""
    if not 0 < book.cumulative <= MAX_DECIMAL_USD:
        return False
    if last is None:
        return True
    waited = now.timestamp() - last.period_end >= interval.total_seconds()
    return book.cumulative > last.cumulative and (waited or not book.open_attempts)


def still_stands(
    proposal: ProposedReceipt, book: PairBook, signed: Receipt | None, now: datetime, interval: timedelta
) -> bool:
    """Whether a proposal waits on as it is: it says something new, and nothing newer has become due meanwhile."""
    proposed = proposal.to_domain()
    if signed is not None and proposed.cumulative <= signed.cumulative:
        return False
    return proposed.cumulative <= book.cumulative and not is_due(book, proposed, now, interval)


def next_pairs(
    kept: Iterable[Pair],
    books: Mapping[Pair, PairBook],
    newest: Mapping[Pair, Receipt],
    now: datetime,
    interval: timedelta,
) -> list[Pair]:
    """The pairs to propose beside those kept, those without a receipt and with the oldest one first."""
    held = set(kept)
    due = [pair for pair in books if pair not in held and is_due(books[pair], newest.get(pair), now, interval)]
    due.sort(key=lambda pair: (newest[pair].period_end if pair in newest else 0, pair[0].lower()))
    return due[: max(0, MAX_RECEIPTS - len(held))]


def draft(
    pair: Pair, leases: Sequence[PairLease], disputes: Iterable[UsageDispute], last: Receipt | None
) -> ProposedReceipt | None:
    """The receipt over these leases of a pair, None where it would say no more than the last one.

    `usageRoot` is over exactly the leases that make up the amount. The period ends with the last reading of all, or
    where something runs with the oldest reading of what runs: up to there nothing is missing.
    """
    cumulative = receipt_cumulative(accrue(lease.price, lease.gpu_seconds) for lease in leases)
    if not 0 < cumulative <= MAX_DECIMAL_USD or (last is not None and cumulative <= last.cumulative):
        return None
    running = [lease.observed_at for lease in leases if lease.open and lease.observed_at is not None]
    seen = [lease.observed_at for lease in leases if lease.observed_at is not None]
    end = min(running, default=max(seen))
    return ProposedReceipt(
        tenant=pair[0],
        provider=pair[1],
        cumulative=format_usd(cumulative),
        period_end=max(int(end.timestamp()), last.period_end if last is not None else 0),
        usage_root=usage_root((lease.lease_name, lease.gpu_seconds) for lease in leases),
        disputed=format_usd(min(MAX_DECIMAL_USD, _disputed(leases, disputes))),
    )


def _disputed(leases: Sequence[PairLease], disputes: Iterable[UsageDispute]) -> int:
    """What is claimed of these leases beyond what is billed now, in µUSD rounded up."""
    by_name = {lease.lease_name: lease for lease in leases}
    total = 0
    for dispute in disputes:
        lease = by_name.get(dispute.lease_name)
        if lease is not None:
            total += accrue(lease.price, max(0, dispute.claimed - lease.gpu_seconds))
    return -(-total // SECONDS_PER_HOUR)


class VantageLoop:
    """Keeps `spec.vantages` of all reports at what the operator was told."""

    def __init__(self, kube: Kube, writers: Writers, vantages: tuple[Vantage, ...]) -> None:
        self._kube = kube
        self._writer = writers.reports
        self._asked = [VantageRef(name=each.name, url=each.url) for each in sorted(vantages, key=lambda v: v.name)]

    async def pass_once(self) -> float | None:
        """One pass over all reports."""
        for report in await load_all(self._kube, ProviderReport):
            with one_of_many(report):
                if await self._writer.set_vantages(report, self._asked):
                    log.info("provider %s: asked to probe %d vantages", report.spec.provider, len(self._asked))
        return None
