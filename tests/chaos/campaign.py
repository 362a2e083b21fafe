"""One seed of the long sweep: usage, deaths, lost replies, reorgs, cancelled epochs and disputes, at random."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from random import Random

from eth_utils.crypto import keccak
from tests.chaos.faults import SWEPT, Fault
from tests.chaos.field import CHALLENGE, EPOCH_OF_TIME, Range, provider_key

from fedgpu_operator.adapters.chain import EscrowClient, LocalSigner, TenantWallet, calls
from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Claim, Receipt
from fedgpu_operator.errors import RevertedError
from fedgpu_operator.settlement import claims, parse_manifest
from fedgpu_operator.settlement.typeddata import escrow_domain, receipt

PROVIDERS = ("p", "q", "r")
POINTS = (
    *("ledger.store_epoch", "ledger.post", "ledger.mark_tx:Broadcast", "ledger.mark_tx:Included"),
    *("ledger.mark_tx:Finalized", "ledger.close_intent:Done", "ledger.mark_epoch:Posted"),
    *("ledger.mark_epoch:Finalized", "ledger.mark_epoch:Cancelled", "ledger.mark_epoch:Paid"),
    *(f"ledger.{method}:{kind}" for method in ("open_intent", "store_tx") for kind in ("post", "claim", "close")),
    *("kube.create:ConfigMap", "kube.create:SettlementEpoch", "kube.patch_status:Posted"),
    *("kube.patch_status:Finalized", "kube.patch_status:Paid"),
    *("escrow.sign:post", "escrow.sign:claim", "escrow.sign:close", "escrow.broadcast", "escrow.receipt"),
)
"""Where a campaign shoots; a point that a life does not reach lets it live."""


@dataclass
class Campaign:
    """A range, a die, and a count of what happened."""

    range: Range
    random: Random
    counts: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        """Everything of one seed, up to the last life, in which nothing is in the way any more."""
        for _ in range(self.random.randint(2, 3)):
            usage = [
                (self.random.randrange(len(self.range.tenants)), self.random.choice(PROVIDERS))
                for _ in range(self.random.randint(2, 6))
            ]
            asyncio.run(self._bill(usage))
            if self._open_window():
                for act in self.random.choice(([self._cancel], [self._dispute], [self._dispute, self._dispute], [])):
                    act()
            for _ in range(self.random.randint(3, 5)):
                self._live()
                self._happen()
        self.counts["lives"] += 1
        killed, _ = self.range.shoot(passes=60)
        assert not killed

    def _open_window(self) -> bool:
        """Let lives of one pass go by until an epoch is in its window; False where none came."""
        for _ in range(8):
            if asyncio.run(self._try("windows", self._in_window)):
                return True
            self._wait()
            self._live(passes=1)
        return False

    def _live(self, passes: int | None = None) -> None:
        """One life of the settler, short or cut short."""
        faults = [
            Fault(self.random.choice(POINTS), self.random.choice(SWEPT), self.random.choice([1, 1, 2]))
            for _ in range(self.random.randint(2, 6))
        ]
        kept, self.range.site = self.range.site, replace(self.range.site, stride=CHALLENGE // 3)
        try:
            killed, _ = self.range.shoot(*faults, passes=passes or self.random.randint(1, 5))
        finally:
            self.range.site = kept
        self.counts["lives"] += 1
        self.counts["kills"] += killed

    def _happen(self) -> None:
        """Between two lives the world goes on."""
        self.random.choice([self._reorg, self._reorg, self._wait, self._cancel, self._dispute])()

    def _wait(self) -> None:
        self.range.chain.jump(CHALLENGE // 3)
        self.range.chain.mine(self.random.randint(1, 3))

    def _reorg(self) -> None:
        """Take up to two blocks back, which is all that is not final; what was in them is in no pool either."""
        depth = self.random.randint(1, 2)
        if not self.range.chain.reorgs:
            self._wait()
            return
        self.range.reorg(depth)
        self.counts["reorgs"] += 1

    def _cancel(self) -> None:
        asyncio.run(self._try("cancelled", self._cancel_head))

    def _dispute(self) -> None:
        asyncio.run(self._try("disputes", self._dispute_head))

    async def _try(self, name: str, act: Callable[[EscrowClient], Coroutine[None, None, bool]]) -> bool:
        """Do something on chain that the contract may refuse, for instance because no window is open."""
        keys = {account.address: account.private_key for account in self.range.chain.accounts}
        guardian = keys[self.range.chain.roles.guardian]
        site = self.range.site
        async with EscrowClient(site.node_url, site.escrow, site.chain_id, guardian) as chain:
            try:
                done = await act(chain)
            except RevertedError:
                self.counts["refused by the contract"] += 1
                return False
        self.counts[name] += done
        return done

    async def _in_window(self, chain: EscrowClient) -> bool:
        return not (await chain.snapshot((), (), "latest")).head_is_active

    async def _cancel_head(self, chain: EscrowClient) -> bool:
        head = await chain.snapshot((), (), "latest")
        if head.head_is_active:
            return False
        await chain.send(calls.encode(chain.escrow, "cancelEpoch", [head.head_epoch]))
        return True

    async def _dispute_head(self, chain: EscrowClient) -> bool:
        """Some tenant disputes part of its debit: of one provider's line, or without naming any."""
        tenant = self.random.choice(self.range.tenants)
        seen = await chain.snapshot([tenant.address], (), "latest")
        pending = seen.accounts[tenant.address].pending
        if seen.head_is_active or not pending:
            return False
        leaf = await self._leaf(seen.head_root, tenant.address)
        amount = self.random.randint(1, pending)
        async with TenantWallet(self.range.chain.rpc_url, tenant.private_key) as wallet:
            if leaf is None or self.random.random() < 0.4:
                await wallet.dispute_debit(self.range.site.escrow, amount)
            else:
                await wallet.dispute(self.range.site.escrow, leaf, amount)
        return True

    async def _leaf(self, root: str, tenant: str) -> Claim | None:
        async with await SqlLedger.open(self.range.site.ledger) as ledger:
            for epoch in await ledger.epochs():
                if epoch.draft.root == root:
                    leaves = claims(parse_manifest(epoch.draft.manifest))
                    own = [leaf for leaf in leaves if any(line.tenant == tenant for line in leaf.lines)]
                    return self.random.choice(own) if own else None
        return None

    async def _bill(self, usage: list[tuple[int, str]]) -> None:
        """More usage, and for about half of the pairs a receipt of both sides, which answers disputes."""
        await self.range.bill.add(self.range.site.ledger, usage)
        site, chain = self.range.site, self.range.chain
        keys = {account.address: account.private_key for account in chain.accounts}
        meter, domain = LocalSigner(keys[chain.roles.meter]), escrow_domain(site.chain_id, site.escrow)
        signers = {str(signer.address): signer for signer in map(LocalSigner, map(provider_key, PROVIDERS))}
        async with await SqlLedger.open(site.ledger) as ledger:
            for (tenant, provider), total in self.range.bill.owed.items():
                if self.random.random() < 0.5:
                    continue
                stated = Receipt(
                    tenant, provider, MicroUSD(total), int(EPOCH_OF_TIME.timestamp()), "0x" + keccak(text="all").hex()
                )
                typed = receipt(domain, stated)
                signatures = await signers[provider].sign_typed(typed), await meter.sign_typed(typed)
                self.counts["receipts"] += await ledger.append_receipt(stated, *signatures, EPOCH_OF_TIME)
