"""Which receipts are due, which wait for a signature, and what each says; pure, from the books."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fedgpu_operator.api.base import MAX_DECIMAL_USD
from fedgpu_operator.api.providerreport import MAX_RECEIPTS, ProposedReceipt
from fedgpu_operator.domain.attempts import PairLease, PairTotal
from fedgpu_operator.domain.ledger import UsageDispute
from fedgpu_operator.domain.money import SECONDS_PER_HOUR, MicroUSD, accrue, format_usd
from fedgpu_operator.domain.settlement import Pair, Receipt
from fedgpu_operator.metering import receipt_cumulative
from fedgpu_operator.settlement.evidence import usage_root


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
