"""What a wallet holds on the escrow and what its work costs, by wallet; integers in micro-USD; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from fedgpu_operator.api.computeaccount import ComputeAccount, Expiring
from fedgpu_operator.domain.attempts import AttemptUsage, PairTotal
from fedgpu_operator.domain.money import NOTHING, SECONDS_PER_HOUR, MicroUSD, accrue, parse_usd
from fedgpu_operator.domain.settlement import ChainSnapshot, Pair
from fedgpu_operator.settlement import Burn, Cover, CoveragePlan, cover_of, plan


@dataclass(frozen=True, slots=True)
class Exposure:
    """What a tenant's work costs: `accrued` is billed since the beginning, `worst` has every open run at its limit."""

    accrued: MicroUSD
    worst: MicroUSD

    @property
    def committed(self) -> MicroUSD:
        """What open attempts may still add."""
        return MicroUSD(self.worst - self.accrued)


def exposure(pairs: Iterable[PairTotal], open_attempts: Iterable[AttemptUsage]) -> Exposure:
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
class EscrowFunds:
    """A wallet's escrow at a finalized block, µUSD.

    `cover` stands behind work that is not debited yet; `secured` is the part of all charges ever that needs no further
    debit: paid, set aside, held by disputes and exits, or refunded by them.
    """

    cover: Cover
    secured: MicroUSD

    def available(self, owed: Exposure) -> MicroUSD:
        """What new work can still reserve: all that is not debited yet must fit into the next epoch's debit."""
        undebited = max(0, owed.worst - self.secured)
        return MicroUSD(max(0, min(self.cover.balance, self.cover.limit) - undebited))

    def pays_all(self, owed: Exposure) -> bool:
        """Whether all work can run to its limit without another look at what was billed of it, whatever leaves."""
        return owed.worst - self.secured <= min(self.cover.balance, self.cover.limit)


def chain_funds(
    chain: ChainSnapshot, wallet: str, charged: Mapping[Pair, MicroUSD], now: datetime, lag: float
) -> EscrowFunds:
    """How the chain says that a wallet stands; `charged` is what each of its pairs owes since the beginning, µUSD.

    The chain's clock is that of a finalized block, so it may be behind ours; the later of the two counts.
    """
    state = chain.accounts[wallet]
    covered = sum(min(total, chain.books[pair].base) for pair, total in charged.items() if pair in chain.books)
    return EscrowFunds(
        cover=cover_of(state, max(chain.timestamp, int(now.timestamp())), lag),
        secured=MicroUSD(covered + state.allocated + state.pending + state.held),
    )


def account_funds(account: ComputeAccount, now: datetime | None = None) -> EscrowFunds | None:
    """The last finalized standing that the account's status holds; None before the first reading.

    What only running work may count on is left out where `now` is not given: new work never may.
    """
    status = account.status
    if not status.observed_block:
        return None
    leaving, leaving_in = _expiring(status.pending_withdrawal, now)
    former_limit, limit_in = _expiring(status.former_limit, now)
    cover = Cover(
        balance=parse_usd(status.balance),
        limit=parse_usd(status.epoch_limit),
        leaving=leaving,
        leaving_in=leaving_in,
        former_limit=former_limit,
        limit_in=limit_in,
    )
    return EscrowFunds(cover, parse_usd(status.secured))


def _expiring(money: Expiring | None, now: datetime | None) -> tuple[MicroUSD, int]:
    if money is None or now is None:
        return NOTHING, 0
    return parse_usd(money.amount), max(0, int((money.until - now).total_seconds()))


@dataclass(frozen=True, slots=True)
class Run:
    """An open attempt as its tenant's money sees it; `unbilled` is µUSD·s/h that may be payable and is not billed."""

    lease: str
    created_at: datetime
    burn: Burn
    unbilled: int


def run_of(entry: AttemptUsage, now: datetime, ends: datetime | None = None) -> Run:
    """What an open attempt may cost from now on; `ends` is when a stop takes hold, its grace included.

    It counts as running since it was opened, whatever its member says: a silent one may bill all of that later.
    """
    terms, attempt = entry.attempt.terms, entry.attempt
    longest = terms.run_limit if ends is None else min(terms.run_limit, _seconds(ends - attempt.created_at))
    elapsed = min(longest, _seconds(now - attempt.created_at))
    return Run(
        lease=attempt.lease_name,
        created_at=attempt.created_at,
        burn=Burn(MicroUSD(terms.price * terms.gpus), longest - elapsed),
        unbilled=accrue(terms.price, max(0, terms.gpus * elapsed - entry.gpu_seconds)),
    )


def _seconds(duration: timedelta) -> int:
    """In whole seconds, rounded up as the bill is, and never negative."""
    return max(0, -(-duration // timedelta(seconds=1)))


@dataclass(frozen=True, slots=True)
class Outlook:
    """How long a wallet's running work is paid for.

    `ending` has been stopped or has ended, `running` may go on, both the oldest first. `secured` are the leases that
    are covered to their end; the others are covered for `lasts` seconds, None where there are no others.
    `undebited` is µUSD·s/h of work that is done and not debited.
    """

    ending: tuple[Run, ...]
    running: tuple[Run, ...]
    undebited: int
    cover: Cover
    secured: frozenset[str]
    lasts: int | None

    @property
    def burn_per_hour(self) -> MicroUSD:
        """What all of it costs together, µUSD per hour."""
        return MicroUSD(sum(each.rate for each in self.burns if each.seconds > 0))

    @property
    def burns(self) -> list[Burn]:
        """Of all that still costs something."""
        return [run.burn for run in (*self.ending, *self.running)]


def outlook(
    stands: EscrowFunds,
    pairs: Iterable[PairTotal],
    open_attempts: Iterable[AttemptUsage],
    now: datetime,
    ends: Mapping[str, datetime] | None = None,
) -> Outlook:
    """The outlook of one wallet from its pairs and open attempts.

    `ends` says by lease name when what was stopped, or has ended, costs nothing more.
    """
    totals, entries, told = list(pairs), list(open_attempts), ends or {}
    runs = [run_of(entry, now, told.get(entry.attempt.lease_name)) for entry in entries]
    runs.sort(key=lambda run: (run.created_at, run.lease))
    ending = tuple(run for run in runs if run.lease in told)
    running = tuple(run for run in runs if run.lease not in told)
    billed = sum(pair.numerator for pair in totals)
    undebited = billed + sum(run.unbilled for run in runs) - SECONDS_PER_HOUR * stands.secured
    if stands.pays_all(exposure(totals, entries)):
        # What was let start by the rounding of receipts must not be stopped for a fraction of a unit.
        found = CoveragePlan(frozenset(range(len(running))), None)
    else:
        found = plan(undebited, [run.burn for run in ending], [run.burn for run in running], stands.cover)
    secured = frozenset(running[position].lease for position in found.secured)
    return Outlook(ending, running, undebited, stands.cover, secured, found.lasts)
