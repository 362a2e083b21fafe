"""The settlement loop: from receipts in the ledger to an epoch on chain, to finality, to payment; one step per pass."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.domain.books import ChainTx, Epoch, EpochDraft, EpochLine, EpochStage, SettlementSnapshot, TxState
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import ChainSnapshot, EpochPlan, EpochState, Pair, SignedTx, TxReceipt
from fedgpu_operator.errors import RevertedError
from fedgpu_operator.hub.epochstatus import EpochFacts, publish
from fedgpu_operator.hub.store import load_all
from fedgpu_operator.hub.wallets import cumulative_pairs, payout_wallets, tenant_wallets
from fedgpu_operator.metering import covers
from fedgpu_operator.ports import Clock, Escrow, Kube, Ledger, Metrics
from fedgpu_operator.settlement import advances, build_epoch, claims, fund, parse_manifest

log = logging.getLogger(__name__)

POST: Final = "post"
CLAIM: Final = "claim"
LIVE: Final = frozenset({EpochStage.PREPARED, EpochStage.POSTED, EpochStage.FINALIZED})


@dataclass(frozen=True, slots=True)
class Due:
    """What the next epoch would settle."""

    pairs: dict[Pair, MicroUSD]
    tenants: dict[str, str]
    providers: dict[str, str]
    books: SettlementSnapshot


class SettlementLoop:
    """At most one epoch is on its way; every step is kept in the ledger before the next one begins."""

    def __init__(
        self,
        kube: Kube,
        ledger: Ledger,
        escrow: Escrow,
        clock: Clock,
        metrics: Metrics,
        *,
        epoch_seconds: float,
        poll: float,
        auto_claim: bool,
    ) -> None:
        self._kube = kube
        self._ledger = ledger
        self._escrow = escrow
        self._clock = clock
        self._metrics = metrics
        self._every = timedelta(seconds=epoch_seconds)
        self._poll = poll
        self._auto_claim = auto_claim
        self._began = clock.now()
        """Before any epoch there is, the first one is due one interval after this."""
        self._closed: set[int] = set()
        """Ended epochs that were published by this process; a restart publishes them once more."""

    async def pass_once(self) -> float | None:
        """Take the open epoch one step further, or begin the next one; then publish what changed."""
        known = await self._ledger.epochs(limit=20)
        for epoch in known:
            if epoch.stage not in LIVE and epoch.number not in self._closed:
                await self._advance(epoch)
        newest = next((epoch for epoch in known if epoch.stage in LIVE), None) or await self._begin()
        if newest is not None:
            await self._advance(newest)
        return self._poll

    async def _begin(self) -> Epoch | None:
        """Prepare an epoch when the last one is old enough and there is something new to settle."""
        now = self._clock.now()
        last = next(iter(await self._ledger.epochs(limit=1)), None)
        since = last.created_at if last is not None and last.stage is EpochStage.PAID else self._began
        if now - since < self._every:
            return None
        due = await self._due()
        if not due.pairs:
            return None
        chain = await self._escrow.snapshot(sorted({t for t, _ in due.pairs}), sorted(due.pairs))
        if not chain.head_is_active:
            return None
        committed = await self._committed(chain)
        funding = fund(due.pairs, chain, committed)
        for wallet, short in funding.unfunded.items():
            log.warning("wallet %s lacks %d µUSD of escrow or spend limit for what it owes", wallet, short)
        if not funding.payable or not advances(funding, committed):
            return None
        plan = build_epoch(
            chain_id=chain.chain_id,
            escrow=chain.escrow,
            seq=chain.seq,
            prev_root=chain.head_root,
            period_end=int(now.timestamp()),
            pairs=funding.payable,
            debits=funding.debits,
        )
        epoch = await self._ledger.store_epoch(_draft(plan, due, now), now)
        log.info("epoch %d prepared: %d µUSD over %d pairs", epoch.number, plan.total, len(plan.pairs))
        return epoch

    async def _due(self) -> Due:
        books = await self._ledger.settlement_snapshot()
        tenants = tenant_wallets(await load_all(self._kube, ComputeAccount))
        providers = await payout_wallets(self._kube)
        return Due(cumulative_pairs(books.pairs, tenants, providers), tenants, providers, books)

    async def _committed(self, chain: ChainSnapshot) -> dict[Pair, MicroUSD]:
        """The pairs of the newest root on chain: what was promised already."""
        for epoch in await self._ledger.epochs():
            if epoch.draft.root == chain.head_root and epoch.stage in (EpochStage.FINALIZED, EpochStage.PAID):
                return dict(parse_manifest(epoch.draft.manifest).pairs)
        return {}

    async def _advance(self, epoch: Epoch) -> None:
        plan = parse_manifest(epoch.draft.manifest)
        if epoch.stage is EpochStage.PREPARED:
            epoch = await self._post(epoch, plan)
        if epoch.stage is EpochStage.POSTED:
            epoch = await self._settle_post(epoch, plan)
        chain = await self._escrow.snapshot(sorted(plan.debits), sorted(plan.pairs))
        state = await self._escrow.finalized_epoch(epoch.chain_epoch) if epoch.chain_epoch else None
        if state is not None and epoch.stage is EpochStage.FINALIZED:
            epoch = await self._collect(epoch, plan, chain, state)
        txs = await self._ledger.transactions(epoch=epoch.number)
        await publish(self._kube, self._clock.now(), EpochFacts(epoch, plan, chain, state, txs))
        if epoch.stage not in LIVE:
            self._closed.add(epoch.number)

    async def _post(self, epoch: Epoch, plan: EpochPlan) -> Epoch:
        kept = await self._kept(epoch, POST)
        try:
            signed = _signed(kept[-1]) if kept else await self._escrow.prepare_post(plan)
        except RevertedError as error:
            log.warning("epoch %d cannot be posted (%s); it is built anew", epoch.number, error)
            return await self._ledger.mark_epoch(epoch.number, EpochStage.ABANDONED)
        if not kept:
            await self._keep(signed, POST, epoch)
        # Where the process died right after sending, they may be mined by now: a node refuses such bytes for good.
        if not kept or await self._escrow.receipt(signed.tx_hash) is None:
            await self._escrow.broadcast(signed)
            await self._ledger.mark_tx(signed.tx_hash, TxState.BROADCAST)
        return await self._ledger.mark_epoch(epoch.number, EpochStage.POSTED, post_tx=signed.tx_hash)

    async def _settle_post(self, epoch: Epoch, plan: EpochPlan) -> Epoch:
        """From a broadcast to a finalized root; the receipt only tells where to look, the state decides."""
        tx_hash = epoch.post_tx or ""
        receipt = await self._escrow.receipt(tx_hash)
        if receipt is None:
            # In no block: not mined yet, dropped, or undone by a reorg. The same bytes can do no harm twice.
            kept = await self._kept(epoch, POST)
            if not kept or not await self._send_again(kept[-1]):
                return await self._ledger.mark_epoch(epoch.number, EpochStage.PREPARED)
            return epoch
        if not receipt.succeeded:
            log.warning("epoch %d: the contract refused the post in %s", epoch.number, tx_hash)
            await self._ledger.mark_tx(tx_hash, TxState.REVERTED, receipt.block_number)
            return await self._ledger.mark_epoch(epoch.number, EpochStage.ABANDONED)
        if receipt.epoch is None:
            return epoch
        state = await self._escrow.finalized_epoch(receipt.epoch)
        if state.root != plan.root:
            await self._ledger.mark_tx(tx_hash, TxState.INCLUDED, receipt.block_number)
            return await self._ledger.mark_epoch(epoch.number, EpochStage.POSTED, chain_epoch=receipt.epoch)
        await self._ledger.mark_tx(tx_hash, TxState.FINALIZED, receipt.block_number)
        return await self._ledger.mark_epoch(epoch.number, EpochStage.FINALIZED, chain_epoch=receipt.epoch)

    async def _collect(self, epoch: Epoch, plan: EpochPlan, chain: ChainSnapshot, state: EpochState) -> Epoch:
        """From a finalized root to a paid one; whoever claims, the books at finalized say that it is paid."""
        if state.cancelled:
            log.warning("epoch %d was cancelled by the guardian; its usage is settled anew", epoch.number)
            return await self._ledger.mark_epoch(epoch.number, EpochStage.CANCELLED)
        txs = await self._kept(epoch, CLAIM)
        if all(chain.paid[pair] >= total for pair, total in plan.pairs.items()):
            for tx in txs:
                await self._note(tx, await self._escrow.receipt(tx.tx_hash), final=True)
            self._metrics.paid(epoch.draft.total)
            return await self._ledger.mark_epoch(epoch.number, EpochStage.PAID)
        if self._auto_claim and chain.timestamp >= state.active_at and epoch.chain_epoch:
            await self._claim(epoch, plan, txs, chain)
        return epoch

    async def _claim(self, epoch: Epoch, plan: EpochPlan, txs: list[ChainTx], chain: ChainSnapshot) -> None:
        if txs:
            receipt = await self._escrow.receipt(txs[-1].tx_hash)
            await self._note(txs[-1], receipt, final=False)
            if receipt is None and await self._send_again(txs[-1]):
                return
            if receipt is not None and receipt.succeeded:
                if receipt.block_number <= chain.block_number:
                    log.error("epoch %d: the claim %s left lines unpaid; not repeated", epoch.number, txs[-1].tx_hash)
                return
        signed = await self._escrow.prepare_claim(epoch.chain_epoch or 0, claims(plan))
        await self._keep(signed, CLAIM, epoch)
        await self._escrow.broadcast(signed)
        await self._ledger.mark_tx(signed.tx_hash, TxState.BROADCAST)

    async def _kept(self, epoch: Epoch, kind: str) -> list[ChainTx]:
        """Transactions of that kind that may still count, oldest first."""
        txs = await self._ledger.transactions(epoch=epoch.number)
        return [tx for tx in txs if tx.kind == kind and tx.state is not TxState.REPLACED]

    async def _send_again(self, tx: ChainTx) -> bool:
        """Broadcast kept bytes that are in no block; False where another transaction took their nonce for good."""
        if await self._escrow.finalized_nonce(tx.sender) > (tx.nonce or 0):
            if await self._escrow.receipt(tx.tx_hash) is None:
                log.warning("the nonce of %s was used by another transaction of the same key", tx.tx_hash)
                await self._ledger.mark_tx(tx.tx_hash, TxState.REPLACED)
                return False
            return True
        await self._escrow.broadcast(_signed(tx))
        return True

    async def _note(self, tx: ChainTx, receipt: TxReceipt | None, *, final: bool) -> None:
        if receipt is None or tx.state in (TxState.FINALIZED, TxState.REVERTED):
            return
        state = TxState.REVERTED if not receipt.succeeded else TxState.FINALIZED if final else TxState.INCLUDED
        await self._ledger.mark_tx(tx.tx_hash, state, receipt.block_number)

    async def _keep(self, signed: SignedTx, kind: str, epoch: Epoch) -> None:
        tx = ChainTx(
            tx_hash=signed.tx_hash,
            kind=kind,
            epoch=epoch.number,
            provider_wallet=None,
            sender=signed.sender,
            nonce=signed.nonce,
            raw=signed.raw,
        )
        await self._ledger.store_tx(tx, self._clock.now())


def _signed(tx: ChainTx) -> SignedTx:
    return SignedTx(tx_hash=tx.tx_hash, raw=tx.raw, sender=tx.sender, nonce=tx.nonce or 0)


def _draft(plan: EpochPlan, due: Due, now: datetime) -> EpochDraft:
    def wallets(tenant: str, provider: str) -> Pair:
        return due.tenants.get(tenant, ""), due.providers.get(provider, "")

    lines = tuple(
        EpochLine(total.tenant, total.provider, *wallets(total.tenant, total.provider), total.cumulative)
        for total in due.books.pairs
        if wallets(total.tenant, total.provider) in plan.pairs
    )
    return EpochDraft(
        seq=plan.seq,
        prev_root=plan.prev_root,
        root=plan.root,
        manifest=plan.manifest,
        manifest_hash=plan.manifest_hash,
        period_end=now.replace(microsecond=0),
        total=plan.total,
        lines=lines,
        covers=covers(due.books, plan.pairs, wallets),
    )
