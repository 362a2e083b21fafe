"""Wallets, what they hold and owe, and the status of the account that names one; integers in micro-USD; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, Literal

from eth_utils.address import to_checksum_address

from fedgpu_operator.api.base import MAX_DECIMAL_USD, READY, Finding, find, merge, standing
from fedgpu_operator.api.computeaccount import ComputeAccount, ComputeAccountStatus, Expiring, account_state
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.api.reasons import NEEDS_CHANGE, ConditionReason
from fedgpu_operator.domain.attempts import AttemptUsage, PairTotal
from fedgpu_operator.domain.money import NOTHING, SECONDS_PER_HOUR, MicroUSD, accrue, format_usd, parse_usd
from fedgpu_operator.domain.settlement import ChainSnapshot, Pair
from fedgpu_operator.metering import receipt_cumulative
from fedgpu_operator.settlement import (
    Burn,
    Cover,
    CoveragePlan,
    FundingStage,
    Thresholds,
    cover_of,
    plan,
    shortfall,
    stage_of,
)


@lru_cache(maxsize=65_536)
def checksummed(address: str) -> str:
    """The address as EIP-55 spells it; it takes a hash, and the same few thousand are asked for in every pass."""
    return str(to_checksum_address(address))


@dataclass(frozen=True, slots=True)
class Wallets:
    """The wallets that may be used (EIP-55): `tenants` by namespace, `payouts` by provider; others are none."""

    tenants: Mapping[str, str]
    payouts: Mapping[str, str]


def tenant_wallets(proven: Iterable[ComputeAccount]) -> dict[str, str]:
    """Wallet (EIP-55) by namespace, of accounts whose proofs hold.

    A wallet that agreed to two accounts is spent by the older one alone, so that its funds are summed in one place.
    """
    wallets: dict[str, str] = {}
    taken: set[str] = set()
    ordered = sorted(proven, key=lambda a: (str(a.metadata.creation_timestamp), a.metadata.namespace))
    for account in ordered:
        wallet = checksummed(account.spec.wallet)
        if wallet not in taken:
            taken.add(wallet)
            wallets[account.metadata.namespace] = wallet
    return wallets


def payout_wallets(proven: Iterable[GPUProvider]) -> dict[str, str]:
    """Payout wallet (EIP-55) by provider, of providers whose proofs hold; only where it is the one accepted."""
    return {
        provider.metadata.name: checksummed(provider.spec.payout.address)
        for provider in proven
        if provider.spec.payout is not None and provider.accepted
    }


def cumulative_pairs(totals: Iterable[PairTotal]) -> dict[Pair, MicroUSD]:
    """What each tenant wallet owes each provider wallet since the beginning (µUSD), rounded down once per pair.

    The wallets are those that each attempt was opened under. What was opened without one is never settled on chain.
    """
    owed: dict[Pair, int] = defaultdict(int)
    for total in totals:
        if total.tenant_wallet and total.provider_wallet:
            owed[total.tenant_wallet, total.provider_wallet] += total.numerator
    return {pair: receipt_cumulative([numerator]) for pair, numerator in owed.items()}


@dataclass(frozen=True, slots=True)
class ProofVerdict:
    """Whether a wallet is proven, as a condition's status, and what to do where it is not.

    ``Unknown`` is a contract wallet while the chain does not answer: nothing new is done with it, nothing is undone.
    """

    status: Literal["True", "False", "Unknown"]
    message: str = ""
    passing: bool = False
    """Whether it can become another one by time alone: the chain was silent, or a clock is ahead."""

    @property
    def proven(self) -> bool:
        """Whether the wallet itself agreed."""
        return self.status == "True"


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


FUNDED: Final = "Funded"
ALARMS: Final = frozenset({ConditionReason.FUNDING_LOW, ConditionReason.EXHAUSTED})
"""Reasons that are worth a Warning Event when they begin."""
BLOCK_NOTED_EVERY: Final = timedelta(minutes=1)
JITTER: Final = timedelta(seconds=30)
"""An instant that is worked out anew in each pass moves by a second now and then: that alone is no news."""


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """All that an account's status is derived from; `chain` is None where the chain did not answer.

    `owner` is whether new work may spend from the wallet; `pairs` and `running` are what it was spent on.
    """

    account: ComputeAccount
    proof: ProofVerdict
    owner: bool
    pairs: tuple[PairTotal, ...] = ()
    running: tuple[AttemptUsage, ...] = ()
    chain: ChainSnapshot | None = None
    error: str = ""

    @property
    def wallet(self) -> str:
        """EIP-55."""
        return checksummed(self.account.spec.wallet)

    @property
    def watched(self) -> bool:
        """Whether its figures are kept up: also for a wallet that only running work still spends from."""
        return self.owner or bool(self.running)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What the facts come to at a finalized block; `until` is when the money for running work ends, if it does."""

    stands: EscrowFunds
    charged: Mapping[Pair, MicroUSD]
    """What each pair of the wallet owes since the beginning: the chain was asked for the books of these."""
    owed: Exposure
    seen: Outlook
    until: datetime | None


def account_status(facts: AccountFacts, now: datetime, thresholds: Thresholds) -> ComputeAccountStatus:
    """The account's status from the facts; pure. Without an answer of the chain the last figures stay, marked so."""
    account, known = facts.account, facts.account.status
    reading = _read(facts, facts.chain, now, thresholds.lag) if facts.watched and facts.chain is not None else None
    funded = _finding(facts, reading, thresholds)
    found = (funded, *readiness(funded))
    conditions = merge(known.conditions, found, generation=account.metadata.generation, now=now)
    state = account_state(funded.status)
    if not facts.watched and facts.proof.status != "Unknown":
        # Figures that nobody keeps up must not be what work is reserved against once the wallet counts again.
        return ComputeAccountStatus(observed_generation=account.metadata.generation, state=state, conditions=conditions)
    judged = known.model_copy(
        update={"observed_generation": account.metadata.generation, "state": state, "conditions": conditions}
    )
    if reading is None or facts.chain is None:
        return judged
    fresh = judged.model_copy(update=_figures(facts, facts.chain, reading, now))
    # The block moves all the time: noting it alone would make the status a heartbeat.
    if fresh == known and known.observed_at is not None and now - known.observed_at < BLOCK_NOTED_EVERY:
        return known
    return fresh.model_copy(
        update={"observed_block": facts.chain.block_number, "observed_at": now.replace(microsecond=0)}
    )


def readiness(funded: Finding) -> tuple[Finding, ...]:
    """`Ready` and what goes with it: an account is ready while new or running work is paid from it."""
    ready = Finding(READY, funded.status, funded.reason)
    return standing(ready, funded.message, stalled=funded.reason in NEEDS_CHANGE)


def _read(facts: AccountFacts, chain: ChainSnapshot, now: datetime, lag: float) -> _Reading:
    charged = cumulative_pairs(facts.pairs)
    stands = chain_funds(chain, facts.wallet, charged, now, lag)
    seen = outlook(stands, facts.pairs, facts.running, now)
    until = None if seen.lasts is None else _steady(facts.account.status.funded_until, now, seen.lasts)
    return _Reading(stands, charged, exposure(facts.pairs, facts.running), seen, until)


def _figures(facts: AccountFacts, chain: ChainSnapshot, reading: _Reading, now: datetime) -> dict[str, object]:
    wallet, known = facts.wallet, facts.account.status
    state = chain.accounts[wallet]
    stands, owed, cover = reading.stands, reading.owed, reading.stands.cover
    former = cover.former_limit if cover.former_limit > cover.limit else MicroUSD(0)
    return {
        "balance": format_usd(cover.balance),
        "allocated": format_usd(state.allocated),
        "pending": format_usd(state.pending),
        "epoch_limit": format_usd(cover.limit),
        "committed": format_usd(owed.committed),
        "accrued": format_usd(max(0, owed.accrued - stands.secured)),
        "settled": format_usd(sum(chain.books[pair].paid for pair in reading.charged if pair in chain.books)),
        "secured": format_usd(stands.secured),
        "available": format_usd(stands.available(owed)),
        "pending_withdrawal": _shown_expiring(known.pending_withdrawal, cover.leaving, now, cover.leaving_in),
        "former_limit": _shown_expiring(known.former_limit, former, now, cover.limit_in),
        "burn_per_hour": format_usd(min(reading.seen.burn_per_hour, MAX_DECIMAL_USD)),
        "funded_until": reading.until,
    }


def _shown_expiring(known: Expiring | None, amount: MicroUSD, now: datetime, seconds: int) -> Expiring | None:
    if not amount:
        return None
    over = known is not None and not seconds and known.until <= now
    until = known.until if known is not None and over else _steady(known.until if known else None, now, seconds)
    return Expiring(amount=format_usd(amount), until=until)


def _steady(known: datetime | None, now: datetime, seconds: int) -> datetime:
    """That many seconds from now, or the instant that is known where it is a little earlier."""
    fresh = now.replace(microsecond=0) + timedelta(seconds=seconds)
    return known if known is not None and timedelta() <= fresh - known <= JITTER else fresh


def _finding(facts: AccountFacts, reading: _Reading | None, thresholds: Thresholds) -> Finding:
    wallet = facts.account.spec.wallet
    if facts.proof.status == "Unknown":
        return Finding(FUNDED, "Unknown", ConditionReason.CHAIN_UNREACHABLE, facts.proof.message)
    if not facts.proof.proven:
        return Finding(FUNDED, "False", ConditionReason.WALLET_UNPROVEN, facts.proof.message)
    if not facts.owner:
        text = f"wallet {wallet} belongs to the account of another namespace already"
        return Finding(FUNDED, "False", ConditionReason.WALLET_TAKEN, text)
    if reading is None:
        text = f"the chain does not answer, the figures are of the last finalized reading: {facts.error}"
        return Finding(FUNDED, "Unknown", ConditionReason.CHAIN_UNREACHABLE, text)
    if reading.until is not None:
        return _running_out(facts, reading, reading.until, thresholds)
    if not reading.stands.cover.limit:
        text = f"wallet {wallet} has set no spend limit on the escrow: call setSpendLimit"
        return Finding(FUNDED, "False", ConditionReason.NO_SPEND_LIMIT, text)
    if not reading.stands.available(reading.owed):
        text = f"nothing of wallet {wallet} is left for new work: deposit to the escrow"
        return Finding(FUNDED, "False", ConditionReason.NO_BALANCE, text)
    return Finding(FUNDED, "True", ConditionReason.FUNDED, "new work can be reserved")


def _running_out(facts: AccountFacts, reading: _Reading, until: datetime, thresholds: Thresholds) -> Finding:
    """Running work is not covered to its end: then that is what matters, before what new work could reserve."""
    known = find(facts.account.status.conditions, FUNDED)
    was_low = known is not None and known.reason in ALARMS
    at = stage_of(reading.seen.lasts, thresholds, margin=0, was_low=was_low)
    paid = f"what runs is paid for until {until:%Y-%m-%dT%H:%M:%SZ}"
    remedy = _remedy(reading)
    if at is FundingStage.EXHAUSTED:
        text = f"{paid} and is stopped; to have it run again: {remedy}"
        return Finding(FUNDED, "False", ConditionReason.EXHAUSTED, text)
    if at is FundingStage.FUNDED:
        return Finding(
            FUNDED, "True", ConditionReason.FUNDED, f"{paid}, not to its end; no new work is taken; {remedy}"
        )
    return Finding(FUNDED, "True", ConditionReason.FUNDING_LOW, f"{paid} and stopped then, unless you {remedy}")


def _remedy(reading: _Reading) -> str:
    """What covers all that runs to its end."""
    deposit, limit = shortfall(reading.seen.undebited, reading.seen.burns, reading.stands.cover)
    asked = [f"deposit {format_usd(deposit)} USD"] if deposit else []
    asked += [f"raise the spend limit to {format_usd(limit)} USD"] if limit else []
    text = " and ".join(asked) or "wait for the next epoch"
    leaving = reading.stands.cover.leaving
    return f"{text}, or take back the withdrawal of {format_usd(leaving)} USD" if deposit and leaving else text
