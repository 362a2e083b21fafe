"""The account loop: reads every tenant's escrow at finalized and writes how the account stands."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

from fedgpu_operator.api.base import find
from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.domain.attempts import AttemptUsage, PairTotal
from fedgpu_operator.domain.settlement import ChainSnapshot
from fedgpu_operator.errors import ChainError
from fedgpu_operator.hub.services.hubstate import load_all
from fedgpu_operator.hub.services.wallets import ProofBook
from fedgpu_operator.hub.services.writes import Writers, one_of_many
from fedgpu_operator.hub.views.accounts import (
    ALARMS,
    FUNDED,
    AccountFacts,
    account_status,
    checksummed,
    cumulative_pairs,
    tenant_wallets,
)
from fedgpu_operator.ports import AttemptBook, Clock, Escrow, Kube
from fedgpu_operator.settlement import Thresholds

log = logging.getLogger(__name__)


class AccountLoop:
    """Load → read the chain → write."""

    def __init__(
        self,
        kube: Kube,
        writers: Writers,
        ledger: AttemptBook,
        escrow: Escrow,
        clock: Clock,
        *,
        proofs: ProofBook,
        poll: float,
        thresholds: Callable[[], Thresholds],
    ) -> None:
        self._kube = kube
        self._writer = writers.accounts
        self._ledger = ledger
        self._escrow = escrow
        self._clock = clock
        self._proofs = proofs
        self._poll = poll
        self._thresholds = thresholds
        self._blind = ""
        """Why the last pass could not read the chain: what lasts until somebody mends it is logged once."""

    async def pass_once(self) -> float | None:
        """One pass over all accounts; asks for the next after the poll interval."""
        accounts = await load_all(self._kube, ComputeAccount)
        if not accounts:
            return self._poll
        facts = await self._facts(accounts)
        wallets = {each.wallet for each in facts if each.watched}
        pairs = {pair for each in facts if each.watched for pair in cumulative_pairs(each.pairs)}
        chain, error = await self._read(wallets, pairs)
        for each in facts:
            with one_of_many(each.account):
                await self._write(replace(each, chain=chain, error=error))
        return self._poll

    async def _facts(self, accounts: list[ComputeAccount]) -> list[AccountFacts]:
        proofs = await self._proofs.accounts(accounts, refresh=True)
        owners = tenant_wallets(each for each in accounts if proofs[each.metadata.namespace].proven)
        pairs: dict[str, list[PairTotal]] = defaultdict(list)
        running: dict[str, list[AttemptUsage]] = defaultdict(list)
        for pair in await self._ledger.pair_totals():
            pairs[pair.tenant_wallet].append(pair)
        for entry in await self._ledger.open_attempts():
            running[entry.attempt.terms.tenant_wallet].append(entry)
        found = []
        for account in accounts:
            namespace, wallet = account.metadata.namespace, checksummed(account.spec.wallet)
            owner = namespace in owners
            here = [entry for entry in running[wallet] if owner or entry.attempt.terms.tenant == namespace]
            spent = tuple(pairs[wallet]) if owner or here else ()
            found.append(AccountFacts(account, proofs[namespace], owner, spent, tuple(here and running[wallet]), None))
        return found

    async def _read(self, wallets: Iterable[str], pairs: Iterable[tuple[str, str]]) -> tuple[ChainSnapshot | None, str]:
        try:
            found = await self._escrow.snapshot(sorted(wallets), sorted(pairs))
        except ChainError as error:
            if not (error.permanent and self._blind == error.reason):
                log.warning("the chain does not answer; funding goes by the last finalized reading: %s", error)
            self._blind = error.reason
            return None, str(error)
        self._blind = ""
        return found, ""

    async def _write(self, facts: AccountFacts) -> None:
        status = account_status(facts, self._clock.now(), self._thresholds())
        before, after = (find(each.conditions, FUNDED) for each in (facts.account.status, status))
        if after is not None and after.reason in ALARMS and (before is None or before.reason != after.reason):
            await self._writer.event(facts.account, "Warning", after.reason, after.message)
        await self._writer.write_status(facts.account, status)
