"""An account's status from its facts: figures, how long the money lasts, and what to do about it; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from fedgpu_operator.api.base import MAX_DECIMAL_USD, READY, Finding, find, merge, standing
from fedgpu_operator.api.computeaccount import ComputeAccount, ComputeAccountStatus, Expiring, account_state
from fedgpu_operator.api.reasons import NEEDS_CHANGE, ConditionReason
from fedgpu_operator.domain.attempts import AttemptUsage, PairTotal
from fedgpu_operator.domain.money import MicroUSD, format_usd
from fedgpu_operator.domain.settlement import ChainSnapshot, Pair
from fedgpu_operator.hub.views.funds import EscrowFunds, Exposure, Outlook, chain_funds, exposure, outlook
from fedgpu_operator.hub.views.wallets import ProofVerdict, checksummed, cumulative_pairs
from fedgpu_operator.settlement import FundingStage, Thresholds, shortfall, stage_of

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
        "pending_withdrawal": _expiring(known.pending_withdrawal, cover.leaving, now, cover.leaving_in),
        "former_limit": _expiring(known.former_limit, former, now, cover.limit_in),
        "burn_per_hour": format_usd(min(reading.seen.burn_per_hour, MAX_DECIMAL_USD)),
        "funded_until": reading.until,
    }


def _expiring(known: Expiring | None, amount: MicroUSD, now: datetime, seconds: int) -> Expiring | None:
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
