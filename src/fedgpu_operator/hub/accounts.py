"""The account loop: reads every tenant's escrow at finalized and writes how the account stands."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from eth_utils.address import to_checksum_address

from fedgpu_operator.api.computeaccount import ComputeAccount, ComputeAccountStatus
from fedgpu_operator.api.conditions import Finding, merge
from fedgpu_operator.domain.money import MicroUSD, format_usd
from fedgpu_operator.domain.settlement import ChainSnapshot
from fedgpu_operator.errors import ChainError
from fedgpu_operator.hub.funds import Exposure, Standing, exposure
from fedgpu_operator.hub.store import load_all
from fedgpu_operator.hub.wallets import cumulative_pairs, tenant_wallets
from fedgpu_operator.hub.write import one_of_many, write_status
from fedgpu_operator.ports import Clock, Escrow, Kube, Ledger

log = logging.getLogger(__name__)

BLOCK_NOTED_EVERY: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """All that an account's status is derived from; `chain` is None where the chain did not answer."""

    account: ComputeAccount
    owner: bool
    owed: Exposure
    chain: ChainSnapshot | None
    error: str = ""


class AccountLoop:
    """Load → read the chain → write."""

    def __init__(self, kube: Kube, ledger: Ledger, escrow: Escrow, clock: Clock, *, poll: float) -> None:
        self._kube = kube
        self._ledger = ledger
        self._escrow = escrow
        self._clock = clock
        self._poll = poll

    async def pass_once(self) -> float | None:
        """One pass over all accounts; asks for the next after the poll interval."""
        accounts = await load_all(self._kube, ComputeAccount)
        if not accounts:
            return self._poll
        owners = tenant_wallets(accounts)
        totals, running = await self._ledger.pair_totals(), await self._ledger.open_attempts()
        wallets = set(owners.values())
        pairs = {pair for pair in cumulative_pairs(totals) if pair[0] in wallets}
        chain, error = await self._read(wallets, pairs)
        for account in accounts:
            wallet = owners.get(account.metadata.namespace, "")
            owed = exposure(
                (pair for pair in totals if wallet and pair.tenant_wallet == wallet),
                (entry for entry in running if wallet and entry.attempt.terms.tenant_wallet == wallet),
            )
            with one_of_many(account):
                status = account_status(AccountFacts(account, bool(wallet), owed, chain, error), self._clock.now())
                await write_status(self._kube, account, account.status, status)
        return self._poll

    async def _read(self, wallets: Iterable[str], pairs: Iterable[tuple[str, str]]) -> tuple[ChainSnapshot | None, str]:
        try:
            return await self._escrow.snapshot(sorted(wallets), sorted(pairs)), ""
        except ChainError as error:
            log.warning("the chain does not answer; funding goes by the last finalized reading: %s", error)
            return None, str(error)


def account_status(facts: AccountFacts, now: datetime) -> ComputeAccountStatus:
    """The account's status from the facts; pure. Without an answer of the chain the last figures stay, marked so."""
    account, known = facts.account, facts.account.status
    finding, state = _finding(facts)
    conditions = merge(known.conditions, (finding,), generation=account.metadata.generation, now=now)
    judged = known.model_copy(
        update={"observed_generation": account.metadata.generation, "state": state, "conditions": conditions}
    )
    if not facts.owner or facts.chain is None:
        return judged
    stands = _standing(facts.chain, account.spec.wallet)
    undebited = facts.owed.accrued - stands.allocated - stands.pending - stands.paid
    fresh = judged.model_copy(
        update={
            "balance": format_usd(stands.free),
            "allocated": format_usd(stands.allocated),
            "pending": format_usd(stands.pending),
            "epoch_limit": format_usd(stands.limit),
            "committed": format_usd(facts.owed.committed),
            "accrued": format_usd(max(0, undebited)),
            "settled": format_usd(stands.paid),
            "available": format_usd(stands.available(facts.owed)),
        }
    )
    # The block moves all the time: noting it alone would make the status a heartbeat.
    if fresh == known and known.observed_at is not None and now - known.observed_at < BLOCK_NOTED_EVERY:
        return known
    return fresh.model_copy(
        update={"observed_block": facts.chain.block_number, "observed_at": now.replace(microsecond=0)}
    )


def _standing(chain: ChainSnapshot, wallet: str) -> Standing:
    owner = to_checksum_address(wallet)
    state = chain.accounts[owner]
    return Standing(
        free=state.free,
        allocated=state.allocated,
        pending=state.pending,
        paid=MicroUSD(sum(paid for (tenant, _), paid in chain.paid.items() if tenant == owner)),
        limit=MicroUSD(min(state.limit, state.new_limit)) if state.limit_at else state.limit,
    )


def _finding(facts: AccountFacts) -> tuple[Finding, Literal["Pending", "Funded", "Unfunded", "Unknown"]]:
    wallet = facts.account.spec.wallet
    if not facts.owner:
        text = f"wallet {wallet} belongs to the account of another namespace already"
        return Finding("Funded", "False", "WalletTaken", text), "Unfunded"
    if facts.chain is None:
        text = f"the chain does not answer, the figures are of the last finalized reading: {facts.error}"
        return Finding("Funded", "Unknown", "ChainUnreachable", text), "Unknown"
    stands = _standing(facts.chain, wallet)
    if not stands.limit:
        text = f"wallet {wallet} has set no spend limit on the escrow: call setSpendLimit"
        return Finding("Funded", "False", "NoSpendLimit", text), "Unfunded"
    if not stands.available(facts.owed):
        text = f"nothing of wallet {wallet} is left for new work: deposit to the escrow"
        return Finding("Funded", "False", "NoBalance", text), "Unfunded"
    return Finding("Funded", "True", "Funded", "new work can be reserved"), "Funded"
