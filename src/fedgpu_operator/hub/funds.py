"""What a namespace may still commit: finalized escrow less all that its work may yet cost; pure integers in µUSD."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.domain.books import LeaseUsage, PairTotal
from fedgpu_operator.domain.money import SECONDS_PER_HOUR, MicroUSD, accrue, parse_usd


@dataclass(frozen=True, slots=True)
class Exposure:
    """What a tenant's work costs: `accrued` is billed since the beginning, `worst` has every open run at its limit."""

    accrued: MicroUSD
    worst: MicroUSD

    @property
    def committed(self) -> MicroUSD:
        """What open attempts may still add."""
        return MicroUSD(self.worst - self.accrued)


def exposure(pairs: Iterable[PairTotal], open_attempts: Iterable[LeaseUsage]) -> Exposure:
    """Exposure of one wallet from its pairs and open attempts; a pair is rounded down once, as its receipt is."""
    numerators: dict[str, int] = defaultdict(int)
    for pair in pairs:
        numerators[pair.provider_wallet] += pair.numerator
    worst = defaultdict(int, numerators)
    for entry in open_attempts:
        terms = entry.attempt.terms
        left = max(0, terms.gpus * terms.run_limit - entry.gpu_seconds)
        worst[terms.provider_wallet] += accrue(terms.price, left)
    return Exposure(
        accrued=MicroUSD(sum(value // SECONDS_PER_HOUR for value in numerators.values())),
        worst=MicroUSD(sum(value // SECONDS_PER_HOUR for value in worst.values())),
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """A wallet's escrow at a finalized block, µUSD.

    `free` is less an announced withdrawal, `limit` is the lower one where a lower one was announced, `paid` counts
    all providers.
    """

    free: MicroUSD
    allocated: MicroUSD
    pending: MicroUSD
    paid: MicroUSD
    limit: MicroUSD

    def available(self, owed: Exposure) -> MicroUSD:
        """What new work can still reserve: all that is not debited yet must fit into the next epoch's debit."""
        undebited = max(0, owed.worst - (self.allocated + self.pending + self.paid))
        return MicroUSD(max(0, min(self.free, self.limit) - undebited))


def standing(account: ComputeAccount) -> Standing | None:
    """The last finalized standing that the account's status holds; None before the first reading."""
    status = account.status
    if not status.observed_block:
        return None
    return Standing(
        free=parse_usd(status.balance),
        allocated=parse_usd(status.allocated),
        pending=parse_usd(status.pending),
        paid=parse_usd(status.settled),
        limit=parse_usd(status.epoch_limit),
    )
